"""Files of exported detectors: traced, compared with the model, and only then kept."""

import copy
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.structures import Instances
from omegaconf import DictConfig, OmegaConf
from torch import nn
from tqdm import tqdm

from hiera_det import __version__

from .modules import ExportableBackbone, ExportableDetector
from .parity import DetectionParity, MapParity
from .postprocess import detections, network_input
from .runtime import FACTS, Run, _instances, open_onnx

__all__ = ["PARTS", "SUFFIXES", "export_model", "open_pt2", "with_image_size", "with_square"]

PARTS = ("detector", "trunk")
SUFFIXES = (".onnx", ".pt2")
OPSET = 18
MIN_TORCH = (2, 6)  # torch.onnx.export(dynamo=True) of an exported program
MAX_ONNX_BYTES = 1_800_000_000  # protobuf ends at 2 GiB: larger weights lie in a file beside


class Detector(Protocol):
    """What of a `hiera_det.predict.Predictor` is needed here."""

    cfg: DictConfig
    model: Any  # GeneralizedRCNN
    image_format: str
    class_names: list[str]
    class_colors: list[tuple[int, int, int]]
    category_ids: list[int]

    def predict_images(self, images: Sequence[np.ndarray]) -> list[Instances]: ...


def export_model(
    predictor: Detector,
    output: str | os.PathLike,
    images: Sequence[tuple[str, np.ndarray]],
    *,
    part: str = "detector",
) -> str:
    """Writes a detector, or its trunk and pyramid, as .onnx or .pt2.

    The file is compared with the model on images and gets its name only if they agree.

    Args:
        predictor: in float32 on the CPU.
        output: .onnx (opset 18) or .pt2 (torch.export); must not exist.
        images: (name, uint8 (H, W, 3) RGB), at least one, of any sizes.
        part: "detector", one image at a time; or "trunk", with its pyramid, any number of images.

    Returns:
        What was written and how well it agrees, in words.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError: its folder does not.
        ImportError: a package, or a torch that is new enough, is missing.
        ValueError: another suffix; a model that has no fixed graph; or file and model differ, with
            the numbers. Then nothing is written.
    """
    output = check_output(output)
    facts = describe(predictor, part)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        path = temporary / output.name
        with torch.no_grad():
            _write(predictor.model, path, facts)
            parity = _compare(predictor, path, part, images)
        if not parity.holds:
            raise ValueError(f"{output} was not written, it differs from the model: {parity}")
        check_output(output)
        for file in sorted(temporary.iterdir(), reverse=True):  # weights beside it come first
            os.rename(file, output.parent / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return (
        f"{output}: {part} for images of {facts['image_size']} px, equal to the model on {parity}"
    )


def check_output(output: str | os.PathLike) -> Path:
    """`output` as a path that can be written.

    Raises:
        ValueError, FileExistsError, FileNotFoundError, ImportError: see `export_model`.
    """
    path = Path(output).expanduser()
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{output}: the suffix says what to write, {' or '.join(SUFFIXES)}")
    if path.exists():
        raise FileExistsError(f"{output} exists; remove it or choose another name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{output}: there is no folder {path.parent}")
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < MIN_TORCH:
        needed = ".".join(map(str, MIN_TORCH))
        raise ImportError(f"torch {torch.__version__} is installed; export needs {needed} or newer")
    if path.suffix == ".onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            _import_extra(name)
    return path


def _import_extra(name: str) -> None:
    try:
        __import__(name)
    except ImportError as error:
        text = f'export to ONNX needs {name}: pip install "hiera_det[onnx]"'
        raise ImportError(text, name=name) from error


# ------------------------------------------------------------------------------- what it says
def describe(predictor: Detector, part: str) -> dict[str, Any]:
    """What a file says of itself: all that `postprocess` and those who draw need.

    Raises:
        ValueError: images are resized or padded as no fixed graph can follow; an unknown part.
    """
    if part not in PARTS:
        raise ValueError(f"part={part!r} is none of {PARTS}")
    cfg, model = predictor.cfg, predictor.model
    short_edge, max_size = _resize_rule(cfg)
    side = model.backbone.padding_constraints.get("square_size", 0)
    if side < max_size:
        raise ValueError(
            f"model.backbone.square_pad={side}: a file takes squares of one size, in which images "
            f"of {max_size} px (max_size of the test augmentation) have room; set it to "
            f"{max_size}, or give --image-size"
        )
    facts: dict[str, Any] = {
        "hiera_det": __version__,
        "part": part,
        "image_size": side,
        "short_edge": short_edge,
        "max_size": max_size,
        "input_format": predictor.image_format,
        "pixel_mean": model.pixel_mean.flatten().tolist(),
        "pixel_std": model.pixel_std.flatten().tolist(),
        "intensity_range": _plain(cfg, "dataloader.intensity_range"),
        "page": _plain(cfg, "dataloader.page"),
        "class_names": list(predictor.class_names),
        "class_colors": [list(color) for color in predictor.class_colors],
        "category_ids": list(predictor.category_ids),
        "config_sha256": _digest(cfg),
    }
    if part == "trunk":
        return facts | {
            "inputs": ["images", "sizes"],
            "outputs": list(model.backbone.output_shape()),
        }
    outputs = ["boxes", "scores", "classes"] + ["masks"] * model.roi_heads.mask_on
    facts |= {"inputs": ["image", "size"], "outputs": outputs}
    predictors = model.roi_heads.box_predictor
    last = predictors[-1] if isinstance(predictors, nn.ModuleList) else predictors
    return facts | {
        "score_threshold": last.test_score_thresh,
        "max_detections": last.test_topk_per_image,
    }


def _resize_rule(cfg: DictConfig) -> tuple[int, int]:
    """Short edge and longest side of the test images."""
    augmentations = OmegaConf.select(cfg, "dataloader.test.mapper.augmentations") or []
    first = augmentations[0] if len(augmentations) == 1 else {}
    name = str(getattr(first.get("_target_"), "__name__", first.get("_target_")))
    edge = first.get("short_edge_length")
    if name.rpartition(".")[2] != "ResizeShortestEdge" or not isinstance(edge, int):
        raise ValueError(
            "dataloader.test.mapper.augmentations: what can be exported is one ResizeShortestEdge, "
            "with one short_edge_length"
        )
    return edge, int(first.get("max_size", edge))


def with_image_size(cfg: DictConfig, side: int) -> DictConfig:
    """A copy whose test images are resized to fit a square of `side` px, and padded to it."""
    cfg = copy.deepcopy(cfg)
    OmegaConf.update(cfg, "dataloader.image_size", side, force_add=True)
    OmegaConf.update(cfg, "model.backbone.square_pad", side, force_add=True)
    _resize_rule(cfg)
    rule = cfg.dataloader.test.mapper.augmentations[0]
    rule.update(short_edge_length=side, max_size=side)
    return cfg


def with_square(cfg: DictConfig) -> DictConfig:
    """A copy whose test images, resized as before, are padded to a square that holds them all."""
    cfg = copy.deepcopy(cfg)
    side = -(-_resize_rule(cfg)[1] // 32) * 32
    OmegaConf.update(cfg, "model.backbone.square_pad", side, force_add=True)
    return cfg


def _plain(cfg: DictConfig, key: str) -> Any:
    value = OmegaConf.select(cfg, key)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _digest(cfg: DictConfig) -> str:
    """Of the model's part of a config, its values and names."""
    model = OmegaConf.to_container(cfg.model, resolve=True)
    return hashlib.sha256(json.dumps(model, sort_keys=True, default=_name).encode()).hexdigest()


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else str(value)


# ---------------------------------------------------------------------------------- writing
def _write(model: Any, path: Path, facts: dict[str, Any]) -> None:
    """Traces the part that `facts` describe and writes it to `path`."""
    side = facts["image_size"]
    channels = len(facts["pixel_mean"])
    dynamic: dict[str, Any] | None = None
    pixels = torch.zeros(side, side, channels, dtype=torch.uint8)
    size = torch.tensor([side, side])
    if facts["part"] == "trunk":
        module: nn.Module = ExportableBackbone(model, side)
        batch = torch.export.Dim("batch")
        dynamic = {"images": {0: batch}, "sizes": {0: batch}}
        example = torch.stack([pixels, pixels]), torch.stack([size, size])
    else:
        module = ExportableDetector(model, side)
        example = pixels, size
    module.eval().requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        program = torch.export.export(module, example, dynamic_shapes=dynamic, strict=False)
        if path.suffix == ".pt2":
            torch.export.save(program, path, extra_files={FACTS: json.dumps(facts)})
        else:
            _write_onnx(program, path, facts)


def _write_onnx(program: Any, path: Path, facts: dict[str, Any]) -> None:
    exported: Any = torch.onnx.export(
        program,
        (),
        dynamo=True,
        opset_version=OPSET,
        input_names=facts["inputs"],
        output_names=facts["outputs"],
        verbose=False,
    )
    exported.model.metadata_props[FACTS] = json.dumps(facts)
    size = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    exported.save(str(path), external_data=size > MAX_ONNX_BYTES)


def open_pt2(path: str | os.PathLike) -> tuple[Run, dict[str, Any]]:
    """A .pt2 file of `export_model` as a function of named arrays, and what it says of itself."""
    import torchvision  # noqa: F401  has the operators nms and roi_align

    extra = {FACTS: ""}
    module = torch.export.load(path, extra_files=extra).module()
    facts = json.loads(extra[FACTS])

    def run(**arrays: np.ndarray) -> dict[str, np.ndarray]:
        outputs = module(*(torch.from_numpy(arrays[name]) for name in facts["inputs"]))
        named = zip(facts["outputs"], outputs, strict=True)
        return {name: value.numpy() for name, value in named}

    return run, facts


# --------------------------------------------------------------------------------- comparing
def _compare(
    predictor: Detector, path: Path, part: str, images: Sequence[tuple[str, np.ndarray]]
) -> DetectionParity | MapParity:
    """The file beside the model, image by image."""
    threads = torch.get_num_threads()
    run, facts = open_onnx(path, threads) if path.suffix == ".onnx" else open_pt2(path)
    shown = tqdm(images, desc="comparing", unit="image", disable=None)
    if part == "trunk":
        maps = MapParity()
        for _, image in shown:
            maps.add(*_maps(predictor.model, run, facts, image))
        return maps
    parity = DetectionParity(facts["score_threshold"], facts["max_detections"])
    for name, image in shown:
        pixels, size = network_input(image, facts)
        found = detections(run(image=pixels, size=size), size, *image.shape[:2])
        (expected,) = predictor.predict_images([image])
        parity.add(name, expected, _instances(found, *image.shape[:2]))
    return parity


def _maps(
    model: Any, run: Run, facts: dict[str, Any], image: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Maps of an image by the model, and by the file in a batch of three."""
    pixels, (height, width) = network_input(image, facts)
    part = torch.from_numpy(pixels[:height, :width]).permute(2, 0, 1)  # (H, W, C) -> (C, H, W)
    maps = model.backbone(model.preprocess_image([{"image": part}]).tensor)
    other = 255 - pixels
    found = run(
        images=np.stack([other, pixels, other]),
        sizes=np.array([[facts["image_size"]] * 2, [height, width], [height, width]], np.int64),
    )
    return [maps[n][0].numpy() for n in facts["outputs"]], [found[n][1] for n in facts["outputs"]]
