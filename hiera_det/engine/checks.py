"""Checks of a run before its first iteration: each ends in one error or warning with the key."""

import logging
from typing import Any

import torch
from detectron2.utils import comm
from omegaconf import DictConfig, ListConfig, OmegaConf

from hiera_det.data.run_check import check_run
from hiera_det.modeling.pixels import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["check_config", "check_data", "check_is_detector", "choose_device"]

logger = logging.getLogger(__name__)

RATE_TOLERANCE = 1.5  # beyond the range of the two rules


def choose_device(cfg: DictConfig) -> None:
    """Falls back to the CPU where `train.device` is a GPU and there is none.

    Raises:
        ValueError: no device of torch.
    """
    try:
        torch.device(str(cfg.train.device))
    except RuntimeError as error:
        raise ValueError(
            f"train.device={cfg.train.device} is no device: cuda, cuda:0, cpu or mps"
        ) from error
    if str(cfg.train.device).startswith("cuda") and not torch.cuda.is_available():
        cfg.train.device = "cpu"


def check_is_detector(cfg: DictConfig) -> None:
    """Checks that a config is one of detection.

    Raises:
        ValueError: a config of something else, which training would end with far from the reason.
    """
    if "evaluator" not in cfg.dataloader:
        raise ValueError(
            "this is no config of a detector, it has no dataloader.evaluator; those of pretrain/ "
            "are for hiera-det pretrain (mae_*) and finetune (finetune_*)"
        )


def check_config(cfg: DictConfig) -> list[str]:
    """Values that must agree: colour order and scale, sizes and padding, strides, rate and batch.

    What is surely wrong is an error; what costs AP in most runs but may be meant is a warning.

    Returns:
        The warnings, which are also logged.

    Raises:
        ValueError: names the keys, their values and the fix.
    """
    _check_colour_order(cfg)
    _check_sizes(cfg)
    _check_strides(cfg)
    _check_test_set(cfg)
    _check_batch(cfg)
    warnings = [*_pixel_warnings(cfg), *_augmentation_warnings(cfg), *_rate_warnings(cfg)]
    for text in warnings:
        logger.warning(text)
    return warnings


# ------------------------------------------------------------------------------------- pixels
def _check_colour_order(cfg: DictConfig) -> None:
    """One colour order everywhere, and mean and std in it and on the scale of the data."""
    order = OmegaConf.select(cfg.model, "input_format")
    formats = {
        f"dataloader.{split}.mapper.image_format": OmegaConf.select(
            cfg, f"dataloader.{split}.mapper.image_format"
        )
        for split in ("train", "test")
    }
    wrong = {key: value for key, value in formats.items() if value is not None and value != order}
    if order is not None and wrong:
        raise ValueError(
            f"model.input_format is {order} but "
            + ", ".join(f"{key} is {value}" for key, value in wrong.items())
            + ": the model would see red for blue. Give all the same"
        )
    mean, std = _pixels(cfg, "pixel_mean"), _pixels(cfg, "pixel_std")
    for key, values in (("pixel_mean", mean), ("pixel_std", std)):
        if values and any(values) and max(values) < 1:
            raise ValueError(
                f"model.{key}={values} is for images from 0 to 1, but the loader's go from 0 to "
                f"255: multiply it by 255, for example {[round(255 * x, 3) for x in values]}"
            )
    if std and min(std) <= 0:
        raise ValueError(f"model.pixel_std={std}: images are divided by it, so it is above 0")
    for key, values, rgb in (("pixel_mean", mean, IMAGENET_MEAN), ("pixel_std", std, IMAGENET_STD)):
        own = rgb if order == "RGB" else rgb[::-1]
        if order in ("RGB", "BGR") and _close(values, own[::-1]):
            raise ValueError(
                f"model.{key}={values} is ImageNet's in {'BGR' if order == 'RGB' else 'RGB'} "
                f"order, but model.input_format is {order}: give {list(own)}"
            )


def _pixels(cfg: DictConfig, key: str) -> list[float]:
    values = OmegaConf.select(cfg.model, key)
    return [] if values is None else [float(x) for x in values]


def _close(values: list[float], other: tuple[float, ...]) -> bool:
    """Equal but for rounding: blue and red of ImageNet's std differ by 1.02."""
    return len(values) == len(other) and all(
        abs(a - b) < 0.3 for a, b in zip(values, other, strict=True)
    )


def _pixel_warnings(cfg: DictConfig) -> list[str]:
    warnings = []
    mean, std = _pixels(cfg, "pixel_mean"), _pixels(cfg, "pixel_std")
    order, weights = OmegaConf.select(cfg.model, "input_format"), cfg.train.init_checkpoint
    if std and all(x == 1 for x in std):
        warnings.append(
            f"model.pixel_std={std} is that of Detectron2's Caffe weights; Hiera's were trained "
            f"with {list(IMAGENET_STD)}"
        )
    if order == "RGB" and len(mean) == 3 and mean[0] < mean[2]:
        warnings.append(
            f"model.pixel_mean={mean} rises from red to blue: is it in BGR order? "
            "model.input_format is RGB"
        )
    if order == "BGR" and weights:
        warnings.append(
            f"model.input_format=BGR with train.init_checkpoint={weights}: every public Hiera saw "
            "RGB. Unless these weights are of a BGR detector, set model.input_format and "
            "dataloader.train.mapper.image_format to RGB"
        )
    return warnings


# --------------------------------------------------------------------------- sizes and strides
def _augmentations(cfg: DictConfig, split: str) -> list[DictConfig]:
    nodes = OmegaConf.select(cfg, f"dataloader.{split}.mapper.augmentations")
    return [n for n in nodes if isinstance(n, DictConfig)] if isinstance(nodes, ListConfig) else []


def _name(node: DictConfig) -> str:
    """The class or function that a node calls, without its module."""
    target = node.get("_target_", "")
    return target.rsplit(".", 1)[-1] if isinstance(target, str) else target.__name__


def _check_sizes(cfg: DictConfig) -> None:
    """A single image larger than the square padding would be cropped without a word."""
    square = _square_pad(cfg)
    if not square:
        return
    for split in ("train", "test"):
        nodes = _augmentations(cfg, split)
        for i, node in enumerate(nodes):
            key = f"dataloader.{split}.mapper.augmentations.{i}"
            is_open = _name(node) == "ResizeShortestEdge" and node.get("max_size") is None
            if is_open and not any("Crop" in _name(n) for n in nodes[i + 1 :]):
                raise ValueError(
                    f"{key} is ResizeShortestEdge without max_size: the longer side is not "
                    f"bounded, and square_pad={square} would cut it off; +{key}.max_size={square}"
                )
            sizes = [node.get("max_size"), node.get("crop_size")]
            flat = [s for s in sizes if isinstance(s, int)]
            flat += [s for group in sizes if isinstance(group, ListConfig) for s in group]
            if any(s > square for s in flat):
                raise ValueError(
                    f"dataloader.{split}.mapper makes images of up to {max(flat)} px, but "
                    f"model.backbone.square_pad={square}, which would cut off the rest; set "
                    "dataloader.image_size, from which both follow"
                )


def _square_pad(cfg: DictConfig) -> int:
    return OmegaConf.select(cfg, "model.backbone.square_pad") or 0


def _check_strides(cfg: DictConfig) -> None:
    """Anchors and pooled boxes lie where the features do; Detectron2 does not compare them.

    Features are known by their names: pN of FPN and SimpleFeaturePyramid has stride 2**N.
    """
    rpn = OmegaConf.select(cfg.model, "proposal_generator.in_features")
    anchors = "model.proposal_generator.anchor_generator.strides"
    strides, expected = OmegaConf.select(cfg, anchors), _feature_strides(rpn)
    if expected and isinstance(strides, ListConfig) and list(strides) != expected:
        raise ValueError(
            f"{anchors}={list(strides)}, but the features {list(rpn)} have strides {expected}: "
            "anchors would not lie where the features look"
        )
    for part in ("box", "mask"):
        features = OmegaConf.select(cfg.model, f"roi_heads.{part}_in_features")
        key = f"model.roi_heads.{part}_pooler.scales"
        scales, expected = OmegaConf.select(cfg, key), _feature_strides(features)
        if expected and isinstance(scales, ListConfig) and [1 / s for s in scales] != expected:
            raise ValueError(
                f"{key}={list(scales)}, but the features {list(features)} have strides "
                f"{expected}: scales are 1 / stride, or boxes are pooled elsewhere"
            )


def _feature_strides(names: Any) -> list[int]:
    """Strides of features all named p2, p3, …; none where one is named otherwise."""
    names = list(names) if isinstance(names, ListConfig) else []
    if not all(isinstance(n, str) and n[0] == "p" and n[1:].isdigit() for n in names):
        return []
    return [2 ** int(name[1:]) for name in names]


# ------------------------------------------------------------------------------- data and rate
def _check_test_set(cfg: DictConfig) -> None:
    """Images without objects stay in the test set: what is found on them counts against AP."""
    node = OmegaConf.select(cfg, "dataloader.test.dataset")
    if not isinstance(node, DictConfig) or _name(node) != "get_detection_dataset_dicts":
        return
    if node.get("filter_empty", True):  # Detectron2's default
        plus = "" if "filter_empty" in node else "+"
        raise ValueError(
            "dataloader.test.dataset.filter_empty is True: images without objects leave the test "
            "set, false finds on them count nowhere, and AP is too high; "
            f"{plus}dataloader.test.dataset.filter_empty=False"
        )


def _check_batch(cfg: DictConfig) -> None:
    batch = OmegaConf.select(cfg, "dataloader.train.total_batch_size")
    processes = comm.get_world_size()
    if batch is not None and batch % processes:
        raise ValueError(
            f"dataloader.train.total_batch_size={batch} does not divide among {processes} "
            f"processes; {max(1, batch // processes) * processes} does"
        )


def _augmentation_warnings(cfg: DictConfig) -> list[str]:
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper")
    if not isinstance(mapper, DictConfig):
        return []
    warnings = []
    crops = [_name(n) for n in _augmentations(cfg, "train") if "Crop" in _name(n)]
    masks, recompute = mapper.get("use_instance_mask", False), mapper.get("recompute_boxes", False)
    if crops and masks and not recompute:
        warnings.append(
            f"dataloader.train.mapper.recompute_boxes=False with {crops[0]}: boxes of objects that "
            "a crop cuts stay larger than their masks; set it to True"
        )
    resizes = [n for n in map(_name, _augmentations(cfg, "test")) if "Resize" in n]
    if _square_pad(cfg) and OmegaConf.select(cfg, "dataloader.test.mapper") and not resizes:
        warnings.append(
            "dataloader.test.mapper.augmentations resizes nothing: an image larger than "
            f"model.backbone.square_pad={_square_pad(cfg)} would be cut off; add "
            "ResizeShortestEdge with max_size"
        )
    return warnings


def _rate_warnings(cfg: DictConfig) -> list[str]:
    """A rate far from what the config's own becomes for this batch by either rule in use."""
    scaling = OmegaConf.select(cfg, "train.lr_scaling")
    batch = OmegaConf.select(cfg, "dataloader.train.total_batch_size")
    rate = OmegaConf.select(cfg, "optimizer.lr")
    if not (scaling and scaling.rule == "none" and scaling.get("base_lr") and batch and rate):
        return []
    factor = batch / scaling.base_batch_size
    linear, root = scaling.base_lr * factor, scaling.base_lr * factor**0.5
    low, high = min(linear, root) / RATE_TOLERANCE, max(linear, root) * RATE_TOLERANCE
    if low <= rate <= high:
        return []
    return [
        f"optimizer.lr={rate:.3g} at dataloader.train.total_batch_size={batch}: the config's rate "
        f"is {scaling.base_lr:.3g} for {scaling.base_batch_size} images, so {root:.3g} here by the "
        f"square root or {linear:.3g} in proportion. Set optimizer.lr, or train.lr_scaling.rule"
    ]


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
