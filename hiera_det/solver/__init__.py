"""Schedules in epochs and images, and optimizer groups."""

from .param_groups import optimizer_params
from .schedule import iterations, linear_lr, warmup_cosine, warmup_multistep

__all__ = ["iterations", "linear_lr", "optimizer_params", "warmup_cosine", "warmup_multistep"]
