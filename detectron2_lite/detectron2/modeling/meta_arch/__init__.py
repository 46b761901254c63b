"""Whole models."""

from detectron2 import absent_attributes

from .build import META_ARCH_REGISTRY
from .rcnn import GeneralizedRCNN

__all__ = ["META_ARCH_REGISTRY", "GeneralizedRCNN"]

__getattr__ = absent_attributes(__name__)
