"""Training loop, hooks, process launch, and what a training script does before it starts."""

from detectron2 import absent_attributes

from .defaults import create_ddp_model, default_setup
from .hooks import (
    IterationTimer,
    LRScheduler,
    PeriodicCheckpointer,
    PeriodicWriter,
)
from .launch import DEFAULT_TIMEOUT, launch
from .train_loop import HookBase, SimpleTrainer, TrainerBase

__all__ = [
    "DEFAULT_TIMEOUT",
    "HookBase",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
    "SimpleTrainer",
    "TrainerBase",
    "create_ddp_model",
    "default_setup",
    "launch",
]
__getattr__ = absent_attributes(__name__)
