"""Heads on regions."""

from detectron2 import absent_attributes

from .box_head import FastRCNNConvFCHead
from .cascade_rcnn import CascadeROIHeads
from .fast_rcnn import FastRCNNOutputLayers
from .mask_head import BaseMaskRCNNHead, MaskRCNNConvUpsampleHead
from .roi_heads import (
    ROIHeads,
    StandardROIHeads,
    select_foreground_proposals,
)

__all__ = [
    "BaseMaskRCNNHead",
    "CascadeROIHeads",
    "FastRCNNConvFCHead",
    "FastRCNNOutputLayers",
    "MaskRCNNConvUpsampleHead",
    "ROIHeads",
    "StandardROIHeads",
    "select_foreground_proposals",
]

__getattr__ = absent_attributes(__name__)
