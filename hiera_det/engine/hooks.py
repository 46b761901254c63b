"""Hooks that Detectron2 has not got."""

import random
import resource
import sys

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

__all__ = ["IterationSeed", "MemoryStats"]


class IterationSeed(HookBase):
    """Seeds every random generator from (seed, rank, iteration) before each iteration.

    Sampling of anchors and ROIs, drop path and (without loader workers) augmentation then depend on
    the iteration alone, and a resumed run repeats what an uninterrupted one would have done.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def before_step(self) -> None:
        key = [self.seed, comm.get_rank(), self.trainer.iter]
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seed = state["seed"]


class MemoryStats(HookBase):
    """Records `max_mem`, the peak memory in MiB: of the GPU, or of this process without one."""

    def __init__(self, period: int):
        """
        Args:
            period: iterations between two records.
        """
        self.period = period

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period and self.trainer.iter + 1 < self.trainer.max_iter:
            return
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
        self.trainer.storage.put_scalar("max_mem", peak, smoothing_hint=False)
