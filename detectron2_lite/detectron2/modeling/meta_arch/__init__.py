"""Whole models."""

from detectron2 import absent_attributes

from .rcnn import GeneralizedRCNN

__all__ = ["GeneralizedRCNN"]

__getattr__ = absent_attributes(__name__)
