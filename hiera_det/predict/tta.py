"""Test-time augmentation: what is found on flipped and smaller copies of an image, merged.

Boxes of all copies go through one non-maximum suppression; the masks of those that stay are the
mean of what the mask head says on each copy, as Detectron2's GeneralizedRCNNWithTTA does.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import batched_nms

from .pixels import from_rgb
from .predictor import Predictor

__all__ = ["predict_augmented"]

SCALES = (1.0, 0.75)  # of the size of the test mapper; a square_pad has no room for more


def predict_augmented(predictor: Any, image: np.ndarray) -> Instances:
    """Detections of an image, merged from four copies of it, two of them flipped.

    Args:
        predictor: a `Predictor`.
        image: uint8 (H, W, 3), RGB.

    Returns:
        As `Predictor.predict_images` for one image, in about four times the time.

    Raises:
        ValueError: the predictor is none with a model of torch, such as one of an .onnx file.
    """
    if not isinstance(predictor, Predictor):
        raise ValueError("test-time augmentation needs a checkpoint, not an exported file")
    base = predictor.model_input(from_rgb(image, predictor.image_format))
    size = base["image"].shape[-2:]
    views = [(scale, is_flipped) for scale in SCALES for is_flipped in (False, True)]
    inputs = [base | {"image": _view(base["image"], *view)} for view in views]
    sizes = [one["image"].shape[-2:] for one in inputs]
    found = predictor.detect(inputs)
    boxes = [
        _moved(one.pred_boxes.tensor, here, size, is_flipped)
        for one, here, (_, is_flipped) in zip(found, sizes, views, strict=True)
    ]
    merged = _merged(predictor.model, size, found, torch.cat(boxes))
    if found[0].has("pred_masks") and len(merged):
        masks = _masks(predictor, inputs, sizes, views, merged)
        merged.pred_masks = masks
    elif found[0].has("pred_masks"):
        merged.pred_masks = found[0].pred_masks[:0]
    return predictor.finish(merged, *image.shape[:2])


def _view(image: Tensor, scale: float, is_flipped: bool) -> Tensor:
    """uint8 (C, h, w) at another scale, and flipped from left to right."""
    if scale != 1:
        resized = F.interpolate(
            image[None].float(), scale_factor=scale, mode="bilinear", antialias=True
        )
        image = resized[0].round().clamp(0, 255).to(torch.uint8)
    return image.flip(-1) if is_flipped else image


def _moved(
    boxes: Tensor, size: tuple[int, int], new_size: tuple[int, int], is_flipped: bool
) -> Tensor:
    """Boxes (N, 4) of an image of (h, w) in one of another size, which may be its mirror image."""
    (height, width), (new_height, new_width) = size, new_size
    x, y = boxes[:, 0::2] / width, boxes[:, 1::2] / height  # (N, 2) each, in 0..1
    if is_flipped:
        x = 1 - x.flip(1)
    # (N, 2, 2) -> (N, 4)
    return torch.stack([x * new_width, y * new_height], dim=2).flatten(1)


def _merged(
    model: nn.Module, size: tuple[int, int], found: list[Instances], boxes: Tensor
) -> Instances:
    """The best of overlapping boxes (N, 4) of one class, by the limits of the model's own head."""
    heads: Any = model.roi_heads
    predictor = heads.box_predictor
    head = predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor
    scores = torch.cat([one.scores for one in found])
    classes = torch.cat([one.pred_classes for one in found])
    kept = batched_nms(boxes, scores, classes, head.test_nms_thresh)[: head.test_topk_per_image]
    return Instances(
        tuple(size), pred_boxes=Boxes(boxes[kept]), scores=scores[kept], pred_classes=classes[kept]
    )


def _masks(
    predictor: Predictor,
    inputs: list[dict[str, Any]],
    sizes: list[tuple[int, int]],
    views: list[tuple[float, bool]],
    merged: Instances,
) -> Tensor:
    """Probabilities (N, 1, M, M) of merged boxes: the mean over the copies."""
    given = []
    for here, (_, is_flipped) in zip(sizes, views, strict=True):
        boxes = _moved(merged.pred_boxes.tensor, merged.image_size, here, is_flipped)
        given.append(
            Instances(tuple(here), pred_boxes=Boxes(boxes), pred_classes=merged.pred_classes)
        )
    found = predictor.detect(inputs, given)
    masks = [
        one.pred_masks.flip(-1) if is_flipped else one.pred_masks
        for one, (_, is_flipped) in zip(found, views, strict=True)
    ]
    return torch.stack(masks).mean(dim=0)
