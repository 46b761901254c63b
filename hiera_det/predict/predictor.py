"""Predictor: a detector from a file of weights, applied to images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from omegaconf import DictConfig, OmegaConf

from hiera_det.checkpoint import CheckpointFile, load_full, newest_checkpoint, read_checkpoint
from hiera_det.config import load_config, load_safe_config
from hiera_det.report.predictions import class_colors

from .pixels import as_pixels, from_rgb

__all__ = ["Predictor", "open_predictor", "weights_of_run"]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_BATCH = 8  # images of a list that the model gets at once
FINAL = "model_final.pth"  # of a run that is complete


class Predictor:
    """A detector with its weights, which sees images as evaluation does.

    Resizing, colour order and the scaling of pixels of more than 8 bits are those of the config's
    `dataloader.test.mapper`, so what it finds is what `hiera-det eval` scores. No threshold is
    applied beyond the model's own (`test_score_thresh`).

        predictor = Predictor.from_weights("model_final.pth")
        instances = predictor("image.jpg")

    Attributes:
        cfg: config; from a file of weights the part that makes a detector.
        model: detector, in eval mode on `device`.
        device: torch.device.
        precision: "fp32", "bf16" or "fp16" (autocast).
        image_format: that the model takes: "RGB", "BGR" or "L".
        class_names: list of str, in the order of `pred_classes`.
        class_colors: list of (red, green, blue), 0 to 255.
        category_ids: list of int, of the classes in the annotation file of the training.
    """

    def __init__(
        self,
        config: str | os.PathLike | DictConfig,
        weights: str | os.PathLike,
        *,
        device: str | torch.device | None = None,
        precision: str | None = None,
    ):
        """
        Args:
            config: a config that you trust, as `load_config` finds it; a .py runs as Python does.
            weights: a detector's checkpoint.
            device: "cuda" where there is one, else "cpu".
            precision: "fp32", "bf16" or "fp16"; None is that of evaluation,
                `train.eval_precision`.

        Raises:
            FileNotFoundError: no such config or file of weights.
            ValueError: the weights are not those of the whole model; an unknown device or
                precision.
        """
        cfg = config if isinstance(config, DictConfig) else load_config(os.fspath(config))
        self._build(cfg, read_checkpoint(os.fspath(weights)), device, precision)

    @classmethod
    def from_weights(
        cls,
        path: str | os.PathLike,
        *,
        device: str | torch.device | None = None,
        precision: str | None = None,
    ) -> "Predictor":
        """From a checkpoint that carries its config, as those of `hiera-det train` do.

        The config is taken as data, see `hiera_det.config.safe`: no file of weights runs code.

        Raises:
            FileNotFoundError, ValueError: as the constructor; or there is no config in the file, or
                one that names other things than parts of a detector.
        """
        file = read_checkpoint(os.fspath(path))
        text = file.meta.get("config")
        if not isinstance(text, str):
            raise ValueError(
                f"{path} carries no config (it was written by an older version, or elsewhere): "
                'name it, Predictor("config.yaml", "weights.pth") or --config-file config.yaml; '
                "a run keeps its own as config.yaml in its folder"
            )
        return cls._from_text(text, str(path), file, device, precision)

    @classmethod
    def from_run(
        cls,
        folder: str | os.PathLike,
        *,
        device: str | torch.device | None = None,
        precision: str | None = None,
    ) -> "Predictor":
        """From the folder of a run: model_final.pth, or else the last checkpoint.

        The config is the checkpoint's, or else config.yaml of the folder, and data in either case.

        Raises:
            FileNotFoundError: the folder holds no checkpoint.
            ValueError: as `from_weights`.
        """
        folder, path = Path(folder).expanduser(), weights_of_run(folder)
        file = read_checkpoint(str(path))
        text, where = file.meta.get("config"), str(path)
        beside = folder / "config.yaml"
        if not isinstance(text, str) and beside.is_file():
            text, where = beside.read_text(encoding="utf-8"), str(beside)
        if not isinstance(text, str):
            raise ValueError(
                f"{path} carries no config, and {beside} does not exist: name one, "
                'Predictor("config.yaml", "weights.pth") or --config-file config.yaml'
            )
        return cls._from_text(text, where, file, device, precision)

    @classmethod
    def _from_text(cls, text: str, where: str, file: CheckpointFile, device, precision):
        predictor = cls.__new__(cls)
        predictor._build(load_safe_config(text, where), file, device, precision)
        return predictor

    def _build(
        self,
        cfg: DictConfig,
        file: CheckpointFile,
        device: str | torch.device | None,
        precision: str | None,
    ) -> None:
        self.cfg = cfg
        self.device = _device(device)
        precision = precision or OmegaConf.select(cfg, "train.eval_precision") or "fp32"
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r} is none of {', '.join(PRECISIONS)}")
        self.precision = precision
        self.mapper = instantiate(cfg.dataloader.test.mapper)  # the same as in evaluation
        self.image_format: str = self.mapper.image_format
        self.model = instantiate(cfg.model)
        load_full(self.model, file)
        self.model.eval().to(self.device)
        self._is_square = self.model.backbone.padding_constraints.get("square_size", 0) > 0
        num_classes = OmegaConf.select(cfg, "model.roi_heads.num_classes") or 0
        self._name_classes(num_classes, file.meta)

    def _name_classes(self, num_classes: int, meta: dict[str, Any]) -> None:
        """Names, colours and ids: the checkpoint's, else the config's, else "class 0" and so on."""
        dataset = OmegaConf.select(self.cfg, "dataloader.test.dataset.names")  # of a trusted config
        metadata = MetadataCatalog.get(dataset) if isinstance(dataset, str) else None
        known = metadata.get("thing_classes") if metadata is not None else None
        names = meta.get("class_names") or OmegaConf.select(self.cfg, "dataloader.class_names")
        names = [str(name) for name in names or known or ()]
        self.class_names = names if len(names) == num_classes else _numbered(num_classes)
        colors = [(int(r), int(g), int(b)) for r, g, b in meta.get("class_colors") or ()]
        if len(colors) != num_classes:
            colors = class_colors(metadata or MetadataCatalog.get("hiera_det_none"), num_classes)
        self.class_colors = colors
        ids = [int(k) for k in meta.get("category_ids") or ()]
        self.category_ids = ids if len(ids) == num_classes else list(range(1, num_classes + 1))

    # -------------------------------------------------------------------------------- images
    def __call__(self, image: Any, channel_order: str = "RGB") -> Instances | list[Instances]:
        """What is found on an image, or on each of a list.

        Args:
            image: as `hiera_det.predict.pixels.as_pixels` takes it, or a list of them.
            channel_order: of arrays and tensors, "RGB", or "BGR" as OpenCV reads.

        Returns:
            Instances on the CPU in the size of the image, by falling score: `pred_boxes` (Boxes,
            x0 y0 x1 y1 in px), `scores`, `pred_classes`, and with a mask head `pred_masks`, bool
            (N, H, W). For a list, a list of them; empty for an empty one.

        Raises:
            FileNotFoundError, ValueError, TypeError: see `as_pixels`.
        """
        images = list(image) if isinstance(image, list | tuple) else [image]
        found: list[Instances] = []
        for k in range(0, len(images), MAX_BATCH):
            found += self._predict(
                [self.pixels(i, channel_order) for i in images[k : k + MAX_BATCH]]
            )
        return found if isinstance(image, list | tuple) else found[0]

    def predict_images(self, images: Sequence[np.ndarray]) -> list[Instances]:
        """What is found on images uint8 (H, W, 3), RGB, in one batch; as `__call__` returns it."""
        return self._predict([from_rgb(image, self.image_format) for image in images])

    def pixels(self, image: Any, channel_order: str = "RGB") -> np.ndarray:
        """An image as the test mapper reads it: uint8 (H, W, C) in `image_format`."""
        return as_pixels(
            image,
            self.image_format,
            channel_order=channel_order,
            intensity_range=getattr(self.mapper, "intensity_range", None),
            page=getattr(self.mapper, "page", None),
        )

    def _predict(self, images: Sequence[np.ndarray]) -> list[Instances]:
        raw = self.detect([self.model_input(image) for image in images])
        return [self.finish(r, *i.shape[:2]) for r, i in zip(raw, images, strict=True)]

    # -------------------------------------------------------------------------------- model
    def model_input(self, pixels: np.ndarray) -> dict[str, Any]:
        """Pixels uint8 (H, W, C) in `image_format` to an input of the model, by the test mapper's
        augmentations: "image" uint8 (C, h, w), "height" H and "width" W."""
        augmented = T.AugInput(pixels)
        self.mapper.augmentations(augmented)
        image = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))  # (h, w, C) -> (C, h, w)
        height, width = pixels.shape[:2]
        return {"image": torch.as_tensor(image), "height": height, "width": width}

    @torch.no_grad()
    def detect(
        self, inputs: Sequence[dict[str, Any]], given: Sequence[Instances] | None = None
    ) -> list[Instances]:
        """The detections before they are scaled to the images; what a GPU is needed for.

        Args:
            inputs: of `model_input`.
            given: for each, boxes and classes that only masks are added to.

        Returns:
            For each, Instances on the CPU in px of its "image", whose `pred_masks` are
            probabilities, float32 (N, 1, M, M), that span the boxes.
        """
        found: list[Any] = [None] * len(inputs)
        for batch in self._alike(inputs):
            dtype = PRECISIONS[self.precision]
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                raw = self.model.inference(
                    [inputs[k] for k in batch],
                    None if given is None else [given[k] for k in batch],
                    do_postprocess=False,
                )
            for k, instances in zip(batch, raw, strict=True):
                found[k] = _plain(instances.to("cpu"))
        return found

    def _alike(self, inputs: Sequence[dict[str, Any]]) -> list[list[int]]:
        """Indices of inputs that are padded to the same size alone or together.

        Padding is part of what the model sees: beside a larger image, one that is not padded to a
        square would have other detections than alone.
        """
        groups: dict[Any, list[int]] = {}
        for k, one in enumerate(inputs):
            groups.setdefault(None if self._is_square else one["image"].shape, []).append(k)
        return list(groups.values())

    @staticmethod
    def finish(raw: Instances, height: int, width: int) -> Instances:
        """Detections of `detect` scaled to an image of height x width px, masks pasted; as
        `__call__` returns them."""
        return detector_postprocess(raw, height, width)


def open_predictor(
    weights: str | os.PathLike,
    config: str | os.PathLike | None = None,
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
):
    """The predictor of a checkpoint, of the folder of a run, or of an exported .onnx file.

    Args:
        weights: file or folder.
        config: that you trust, where `weights` carries none.
        device, precision: see `Predictor`; of no meaning to an .onnx file.
    """
    if str(weights).lower().endswith(".onnx"):
        from hiera_det.export.runtime import OnnxPredictor

        return OnnxPredictor(weights)
    is_run = Path(weights).expanduser().is_dir()
    if config is not None:
        path = weights_of_run(weights) if is_run else weights
        return Predictor(config, path, device=device, precision=precision)
    build = Predictor.from_run if is_run else Predictor.from_weights
    return build(weights, device=device, precision=precision)


def weights_of_run(folder: str | os.PathLike) -> Path:
    """model_final.pth of a run's folder, or else its last checkpoint.

    Raises:
        FileNotFoundError: no such folder, or it holds no checkpoint.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder of a run")
    return folder / FINAL if (folder / FINAL).is_file() else newest_checkpoint(str(folder))


def _plain(instances: Instances) -> Instances:
    """Numbers in float32, which autocast may have made otherwise."""
    for name, value in list(instances.get_fields().items()):
        tensor = getattr(value, "tensor", value)
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            value = type(value)(tensor.float()) if hasattr(value, "tensor") else tensor.float()
            instances.set(name, value)
    return instances


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device} is no device: cuda, cuda:0, cpu or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device}, but torch finds no GPU here: leave it out, or cpu")
    return device


def _numbered(num_classes: int) -> list[str]:
    return [f"class {k}" for k in range(num_classes)]
