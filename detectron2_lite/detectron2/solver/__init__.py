"""Parameter groups and learning rate schedules."""

from detectron2 import absent_attributes

from .build import get_default_optimizer_params
from .lr_scheduler import LRMultiplier, WarmupParamScheduler

__all__ = ["LRMultiplier", "WarmupParamScheduler", "get_default_optimizer_params"]
__getattr__ = absent_attributes(__name__)
