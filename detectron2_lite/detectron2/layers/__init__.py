"""Layers that the models are made of."""

from detectron2 import absent_attributes

from .batch_norm import FrozenBatchNorm2d, get_norm
from .mask_ops import paste_masks_in_image
from .nms import batched_nms
from .roi_align import ROIAlign
from .shape_spec import ShapeSpec
from .wrappers import (
    Conv2d,
    ConvTranspose2d,
    Linear,
    cat,
    cross_entropy,
    move_device_like,
    nonzero_tuple,
)

__all__ = [
    "Conv2d",
    "ConvTranspose2d",
    "FrozenBatchNorm2d",
    "Linear",
    "ROIAlign",
    "ShapeSpec",
    "batched_nms",
    "cat",
    "cross_entropy",
    "get_norm",
    "move_device_like",
    "nonzero_tuple",
    "paste_masks_in_image",
]

__getattr__ = absent_attributes(__name__)
