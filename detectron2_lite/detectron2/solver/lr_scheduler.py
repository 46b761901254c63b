"""Learning rate as a factor over the relative position in training."""

from typing import Any

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["LRMultiplier", "WarmupParamScheduler"]


class WarmupParamScheduler(CompositeParamScheduler):
    """A schedule with its first part replaced by a warm-up."""

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        """Args:
        scheduler: the schedule without warm-up.
        warmup_factor: factor on its first value, where the warm-up starts.
        warmup_length: share of the whole training, in [0, 1].
        warmup_method: "linear" rises to the value that ``scheduler`` has at the end of the
            warm-up, or with ``rescale_interval`` at its start; "constant" stays.
        rescale_interval: squeeze all of ``scheduler`` into the rest of the training; otherwise
            the warm-up hides its first part.
        """
        start = warmup_factor * scheduler(0.0)
        if warmup_method == "linear":
            end = scheduler(0.0 if rescale_interval else warmup_length)
            warmup = LinearParamScheduler(start, end)
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(start)
        else:
            raise ValueError(f"Unknown warmup method: {warmup_method!r} ('linear', 'constant')")
        super().__init__(
            [warmup, scheduler],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
            lengths=[warmup_length, 1 - warmup_length],
        )


class LRMultiplier(LRScheduler):
    """Learning rate of each group: its initial one times a schedule, stepped by iteration."""

    def __init__(
        self,
        optimizer: Optimizer,
        multiplier: ParamScheduler,
        max_iter: int,
        last_iter: int = -1,
    ) -> None:
        """Args:
        optimizer: its groups need ``initial_lr`` where ``last_iter`` is not -1.
        multiplier: factor on the initial learning rate at a position in [0, 1).
        max_iter: iterations of the whole training.
        last_iter: last iteration already done; -1 at the start.
        """
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier has to be a ParamScheduler of fvcore, not {multiplier!r}")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers only: the schedule itself comes from the config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base_lr * factor for base_lr in self.base_lrs]
