"""Configs as Python: ``LazyCall`` describes a call, ``instantiate`` makes it."""

from detectron2 import absent_attributes

from .instantiate import instantiate
from .lazy import LazyCall, LazyConfig

__all__ = ["LazyCall", "LazyConfig", "instantiate"]
__getattr__ = absent_attributes(__name__)
