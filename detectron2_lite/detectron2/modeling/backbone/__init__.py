"""Backbones and feature pyramids."""

from detectron2 import absent_attributes

from .backbone import Backbone
from .build import BACKBONE_REGISTRY
from .fpn import FPN
from .vit import SimpleFeaturePyramid

__all__ = [
    "BACKBONE_REGISTRY",
    "Backbone",
    "FPN",
    "SimpleFeaturePyramid",
]

__getattr__ = absent_attributes(__name__)
