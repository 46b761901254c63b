"""Hooks that most training scripts register."""

import datetime
import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from detectron2.solver import LRMultiplier
from detectron2.utils.events import EventWriter
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as _LRScheduler

from .train_loop import HookBase

__all__ = [
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
]

logger = logging.getLogger(__name__)


class IterationTimer(HookBase):
    """Records ``time``, the seconds of an iteration. Register it first: later hooks do not count.

    At the end it logs the mean, and the share of the hooks in the whole.
    """

    def __init__(self, warmup_iter: int = 3) -> None:
        """Args:
        warmup_iter: the iteration, counted from 1, that is recorded first; those before it are
            slow for reasons of their own.
        """
        self._warmup_iter = warmup_iter

    def before_train(self) -> None:
        self._steps, self._step_time = 0, 0.0
        self._start = time.perf_counter()

    def before_step(self) -> None:
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        now = time.perf_counter()
        if self.trainer.iter - self.trainer.start_iter + 1 < self._warmup_iter:
            self._start = now
            return
        self._steps += 1
        self._step_time += now - self._step_start
        self.trainer.storage.put_scalar("time", now - self._step_start)

    def after_train(self) -> None:
        if self._steps == 0:
            return
        total = time.perf_counter() - self._start
        logger.info(
            "Overall training speed: %d iterations in %s (%.4f s / it)",
            self._steps, _duration(self._step_time), self._step_time / self._steps,
        )  # fmt: skip
        logger.info(
            "Total training time: %s (%s on hooks)",
            _duration(total), _duration(total - self._step_time),
        )  # fmt: skip


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class PeriodicWriter(HookBase):
    """Lets writers write every ``period`` iterations, after the last one and after training.

    Register it last, so that it writes what the others have put.
    """

    def __init__(self, writers: list[EventWriter], period: int = 20) -> None:
        self._writers = list(writers)
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()  # the last evaluation
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's PeriodicCheckpointer, stepped by the trainer. Same arguments."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class LRScheduler(HookBase):
    """Records ``lr``, the learning rate of the largest group, and steps the schedule."""

    def __init__(
        self,
        optimizer: Optimizer | None = None,
        scheduler: _LRScheduler | ParamScheduler | None = None,
    ) -> None:
        """Args:
        optimizer: the trainer's by default.
        scheduler: a torch scheduler; or an fvcore ParamScheduler, of which the factor at
            ``iter / max_iter`` multiplies the initial learning rates; the trainer's by default.
        """
        self._optimizer = optimizer
        self._scheduler = scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer,
                self.scheduler,
                self.trainer.max_iter,
                last_iter=self.trainer.iter - 1,
            )
        self._group = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: Optimizer) -> int:
        """Index of the group that speaks for all: the first of those with most parameters.

        Where all have one parameter, it is the first of those with the most common learning rate.
        """
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self) -> None:
        rate = self._optimizer.param_groups[self._group]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    @property
    def scheduler(self) -> _LRScheduler | ParamScheduler:
        return self._scheduler or self.trainer.scheduler

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict() if isinstance(self.scheduler, _LRScheduler) else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a torch scheduler. An LRMultiplier does not exist before training starts: it is
        then made from the trainer's iteration and the optimizer's ``initial_lr``."""
        if isinstance(self.scheduler, _LRScheduler):
            self.scheduler.load_state_dict(state_dict)
