"""Reading and writing checkpoints."""

from detectron2 import absent_attributes
from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

from .detection_checkpoint import DetectionCheckpointer

__all__ = ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"]
__getattr__ = absent_attributes(__name__)
