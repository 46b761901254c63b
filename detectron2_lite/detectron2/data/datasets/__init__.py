"""Dataset formats, and the datasets that are registered from the start."""

from detectron2 import absent_attributes

from . import builtin  # registers COCO 2017
from .coco import load_coco_json, register_coco_instances

__all__ = ["builtin", "load_coco_json", "register_coco_instances"]

__getattr__ = absent_attributes(__name__)
