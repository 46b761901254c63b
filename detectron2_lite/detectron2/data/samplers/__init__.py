"""Which images, in which order, in which process."""

from detectron2 import absent_attributes

from .distributed_sampler import InferenceSampler, TrainingSampler

__all__ = ["InferenceSampler", "TrainingSampler"]

__getattr__ = absent_attributes(__name__)
