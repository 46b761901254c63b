"""What silently ruins a run, found before the first iteration. Each ends in one clear error."""

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from hiera_det.data.run_check import check_run

__all__ = ["check_config", "check_data", "check_output_dir", "choose_device"]

logger = logging.getLogger(__name__)


def choose_device(cfg: DictConfig) -> None:
    """Falls back to the CPU where `train.device` is a GPU and there is none."""
    if str(cfg.train.device).startswith("cuda") and not torch.cuda.is_available():
        cfg.train.device = "cpu"


def _augmentations(mapper: Any) -> list[DictConfig]:
    nodes = OmegaConf.select(mapper, "augmentations") if mapper else None
    return list(nodes) if isinstance(nodes, ListConfig) else []


def check_config(cfg: DictConfig) -> None:
    """Values that must agree: colour order and scale, sizes and padding.

    Raises:
        ValueError: they do not; names the keys and their values.
    """
    model = cfg.model
    order = OmegaConf.select(model, "input_format")
    formats = {
        f"dataloader.{split}.mapper.image_format": OmegaConf.select(
            cfg, f"dataloader.{split}.mapper.image_format"
        )
        for split in ("train", "test")
    }
    wrong = {key: value for key, value in formats.items() if value is not None and value != order}
    if wrong:
        raise ValueError(
            f"model.input_format is {order} but "
            + ", ".join(f"{key} is {value}" for key, value in wrong.items())
            + ": the model would see red for blue. Give all the same"
        )
    mean = OmegaConf.select(model, "pixel_mean")
    if order == "RGB" and mean is not None and len(mean) == 3 and mean[0] < mean[2]:
        raise ValueError(
            f"model.pixel_mean={list(mean)} rises as in BGR order, but input_format is RGB; "
            "ImageNet's RGB mean is [123.675, 116.28, 103.53]"
        )
    _check_sizes(cfg)


def _check_sizes(cfg: DictConfig) -> None:
    """A single image larger than the square padding would be cropped without a word."""
    square = OmegaConf.select(cfg, "model.backbone.square_pad") or 0
    if not square:
        return
    for split in ("train", "test"):
        for node in _augmentations(OmegaConf.select(cfg, f"dataloader.{split}.mapper")):
            sizes = [node.get("max_size"), node.get("crop_size")]
            flat = [s for s in sizes if isinstance(s, int)]
            flat += [s for group in sizes if isinstance(group, ListConfig) for s in group]
            if any(s > square for s in flat):
                raise ValueError(
                    f"dataloader.{split}.mapper makes images of up to {max(flat)} px, but "
                    f"model.backbone.square_pad={square}, which would cut off the rest; set "
                    "dataloader.image_size, from which both follow"
                )


def check_data(cfg: DictConfig, with_train: bool) -> None:
    """Reads the annotation files of the run and compares them with the model.

    Raises:
        ValueError, FileNotFoundError: what is wrong, by image and annotation, and the fix.
    """
    report = check_run(cfg, with_train)
    if report is None:
        logger.warning("The config names no dataset.names: its data are not checked.")
        return
    report.raise_if_errors()
    logger.info("%s", report)


def check_output_dir(output_dir: str, resume: bool) -> None:
    """A new run does not write into the folder of an old one, and a resumed one needs it.

    Raises:
        ValueError: the folder holds a run and `resume` is off.
        FileNotFoundError: `resume` is on and there is no checkpoint.
    """
    folder = Path(output_dir)
    last = folder / "last_checkpoint"
    if resume and not last.is_file():
        raise FileNotFoundError(
            f"--resume: {folder} holds no last_checkpoint, so there is nothing to resume; leave "
            "--resume out to start, or set train.output_dir to the folder of the run"
        )
    if resume:
        return
    old = [p.name for p in (*folder.glob("*.pth"), *folder.glob("metrics.json"))]
    if old:
        raise ValueError(
            f"train.output_dir={output_dir} already holds a run ({', '.join(sorted(old)[:3])}"
            f"{', …' if len(old) > 3 else ''}). Continue it with --resume, or keep it and choose "
            "another folder: train.output_dir=./output/another"
        )
