"""Schedules in epochs and images, and optimizer groups."""

from .schedule import iterations, warmup_multistep

__all__ = ["iterations", "warmup_multistep"]
