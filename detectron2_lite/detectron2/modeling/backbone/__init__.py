"""Backbones and feature pyramids."""

from detectron2 import absent_attributes

from .backbone import Backbone
from .build import BACKBONE_REGISTRY, build_backbone
from .fpn import FPN
from .vit import SimpleFeaturePyramid, get_vit_lr_decay_rate

__all__ = [
    "BACKBONE_REGISTRY",
    "Backbone",
    "FPN",
    "SimpleFeaturePyramid",
    "build_backbone",
    "get_vit_lr_decay_rate",
]

__getattr__ = absent_attributes(__name__)
