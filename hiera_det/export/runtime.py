"""Detection with an exported ONNX file: no model code, and for `OnnxDetector` no torch."""

import json
import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from .postprocess import detections, network_input

if TYPE_CHECKING:
    from detectron2.structures import Instances

__all__ = ["OnnxDetector", "OnnxPredictor", "open_onnx"]

FACTS = "hiera_det"  # the key of the file's metadata that holds all of them, as JSON

Run = Callable[..., dict[str, np.ndarray]]  # named arrays to named arrays


class OnnxDetector:
    """A detector in an ONNX file, on ONNX Runtime, NumPy and Pillow.

    detector = OnnxDetector("model.onnx")
    found = detector(image)  # {"boxes", "scores", "classes", "masks"}
    """

    def __init__(self, path: str | os.PathLike, num_threads: int | None = None):
        """
        Args:
            path: written by `hiera-det export`.
            num_threads: of ONNX Runtime on the CPU; None leaves it the choice.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no detector that `hiera-det export` wrote.
            ImportError: onnxruntime is not installed.
        """
        self._run, self.facts = open_onnx(path, num_threads)
        if self.facts["part"] != "detector":
            raise ValueError(f"{path} holds a {self.facts['part']} alone, which detects nothing")
        self.class_names: list[str] = list(self.facts["class_names"])
        self.class_colors = [(r, g, b) for r, g, b in self.facts["class_colors"]]
        self.category_ids: list[int] = list(self.facts["category_ids"])
        self.image_format: str = self.facts["input_format"]

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Detections in one image.

        Args:
            image: uint8 (H, W, 3), RGB.

        Returns:
            In px of the image and by falling score: "boxes" float32 (N, 4) x0, y0, x1, y1; "scores"
            float32 (N,); "classes" int64 (N,); of a model with masks "masks" bool (N, H, W).

        Raises:
            ValueError: an array of another type or shape.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"images are uint8 (H, W, 3), RGB; got {image.dtype} {image.shape}")
        pixels, size = network_input(image, self.facts)
        return detections(self._run(image=pixels, size=size), size, *image.shape[:2])


class OnnxPredictor(OnnxDetector):
    """`OnnxDetector` with the results of `hiera_det.predict.Predictor`: Detectron2's Instances."""

    @property
    def mapper(self) -> SimpleNamespace:
        """How files of more than 8 bits are read, where `hiera_det.predict` looks for it."""
        return SimpleNamespace(**{key: self.facts[key] for key in ("intensity_range", "page")})

    def predict_images(self, images: Sequence[np.ndarray]) -> list["Instances"]:
        """Detections in images, each on its own: the graph takes one at a time.

        Args:
            images: uint8 (H, W, 3), RGB.

        Returns:
            For each Instances in the size of the image with pred_boxes, scores, pred_classes and,
            of a model with masks, pred_masks bool (N, H, W).
        """
        return [_instances(self(image), *image.shape[:2]) for image in images]


def _instances(found: dict[str, np.ndarray], height: int, width: int) -> "Instances":
    import torch
    from detectron2.structures import Boxes, Instances

    tensors = {key: torch.from_numpy(value) for key, value in found.items()}
    instances = Instances((height, width))
    instances.pred_boxes = Boxes(tensors["boxes"])
    instances.scores, instances.pred_classes = tensors["scores"], tensors["classes"]
    if "masks" in tensors:
        instances.pred_masks = tensors["masks"]
    return instances


def open_onnx(
    path: str | os.PathLike, num_threads: int | None = None
) -> tuple[Run, dict[str, Any]]:
    """A file of `hiera-det export` as a function of named arrays, and what it says of itself.

    Raises:
        FileNotFoundError, ValueError, ImportError: see `OnnxDetector`.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f'{path} needs onnxruntime: pip install "hiera_det[onnx]"', name="onnxruntime"
        ) from error
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file; `hiera-det export` writes one")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or 0
    try:
        session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # its errors have no common base
        raise ValueError(f"{path}: ONNX Runtime cannot read it: {error}") from error
    metadata = session.get_modelmeta().custom_metadata_map
    if FACTS not in metadata:
        raise ValueError(
            f"{path} was not written by `hiera-det export`: its metadata lacks {FACTS}"
        )
    names = [output.name for output in session.get_outputs()]

    def run(**arrays: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, arrays), strict=True))

    return run, json.loads(metadata[FACTS])
