"""Hooks that Detectron2 has not got."""

import contextlib
import logging
import math
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn
from torch.optim.swa_utils import AveragedModel

from .checkpointer import RunCheckpointer
from .trainer import Stopped

__all__ = ["EMA", "Evaluation", "IterationSeed", "MemoryStats", "StopOnSignal"]

logger = logging.getLogger(__name__)

METRICS = ("segm/AP", "bbox/AP", "top1")  # what the best checkpoint is chosen by: the first found


class IterationSeed(HookBase):
    """Seeds every random generator from (seed, rank, iteration) before each iteration.

    Sampling of anchors and ROIs and drop path then depend on the iteration alone, and a resumed run
    repeats what an uninterrupted one would have done.
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


# ------------------------------------------------------------------------------------ weights
class EMA(HookBase):
    """Exponential moving average of the weights, by torch's AveragedModel.

    The decay rises to its value as (1 + n) / (10 + n) after n steps, so that a short run does not
    average over its random beginning.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9998):
        """
        Args:
            model: not wrapped.
            decay: share of the old average that stays in each step, in (0, 1).

        Raises:
            ValueError: a decay outside (0, 1).
        """
        if not 0 < decay < 1:
            raise ValueError(f"train.ema.decay={decay} must lie between 0 and 1; usual is 0.9998")
        self.source = model

        def average(averaged, current, num_averaged):
            share = min(decay, (1 + float(num_averaged)) / (10 + float(num_averaged)))
            if not averaged.is_floating_point():
                return current
            return torch.lerp(current, averaged, share)

        self.averaged = AveragedModel(model, avg_fn=average, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """The model with averaged weights."""
        return self.averaged.module

    def after_step(self) -> None:
        self.averaged.update_parameters(self.source)


class AveragedWeights:
    """The state of an EMA in a checkpoint, under "ema"."""

    def __init__(self, ema: EMA):
        self.ema = ema

    def state_dict(self) -> dict[str, Any]:
        return self.ema.averaged.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.ema.averaged.load_state_dict(state)


# ------------------------------------------------------------------------------------ evaluation
class Evaluation(HookBase):
    """Evaluates, keeps the best checkpoint, and stops a run that no longer improves.

    Evaluation is after every `period` iterations and after the last. Results enter the storage as
    "segm/AP" and so on. The best is by mask AP, by box AP without masks, or by top-1.
    """

    def __init__(
        self,
        period: int,
        evaluate: Callable[[nn.Module], Mapping[str, Any]],
        model: nn.Module,
        *,
        best: RunCheckpointer | None = None,
        patience: int = 0,
        stop: "StopOnSignal | None" = None,
    ):
        """
        Args:
            period: iterations; 0 for the last one alone.
            evaluate: model to results, nested dicts of numbers, on the main process; every process
                calls it.
            model: that is evaluated.
            best: writes model_best.pth of it, if given.
            patience: evaluations without a better result before the run stops; 0 never stops.
            stop: may interrupt an evaluation.
        """
        self.period, self.evaluate, self.model = period, evaluate, model
        self.best, self.patience, self.stop = best, patience, stop
        self.best_value, self.best_iter, self.waited = -math.inf, -1, 0

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done != self.trainer.max_iter and (self.period <= 0 or done % self.period):
            return
        with self.stop.at_once() if self.stop else contextlib.nullcontext():
            results = flatten(self.evaluate(self.model) or {})
        self.trainer.storage.put_scalars(**results, smoothing_hint=False)
        comm.synchronize()  # those that have no results wait for the main process
        self._compare(results)

    def _compare(self, results: Mapping[str, float]) -> None:
        name = next((m for m in METRICS if math.isfinite(results.get(m, math.nan))), None)
        better = name is not None and results[name] > self.best_value
        if name is not None and better:
            logger.info(
                "Best so far: %s %.2f at iteration %d", name, results[name], self.trainer.iter + 1
            )
            self.best_value, self.best_iter = results[name], self.trainer.iter
            if self.best is not None:
                self.best.save(
                    "model_best", tag=False, iteration=self.trainer.iter, best={name: results[name]}
                )
        self.waited = 0 if better else self.waited + 1
        out_of_patience = comm.all_gather(self.patience and self.waited >= self.patience)[0]
        if out_of_patience and self.trainer.iter + 1 < self.trainer.max_iter:
            logger.info(
                "Stopping early: %d evaluations without a better one (train.early_stop.patience)",
                self.waited,
            )
            self.trainer.max_iter = self.trainer.iter + 1

    def state_dict(self) -> dict[str, float]:
        return {"best_value": self.best_value, "best_iter": self.best_iter, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.best_value, self.best_iter = state["best_value"], state["best_iter"]
        self.waited = state["waited"]


def flatten(results: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """{"bbox": {"AP": 1.0}} as {"bbox/AP": 1.0}; what is no number is left out."""
    flat: dict[str, float] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            flat[f"{prefix}{key}"] = float(value)
    return flat


# ------------------------------------------------------------------------------------ signals
class StopOnSignal(HookBase):
    """Ends the run after the step in which SIGTERM or Ctrl-C came; a second Ctrl-C, at once.

    All processes stop after the same step: `Trainer` exchanges the wish with every step, so one
    that comes late in a step is heard in the next.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._old: dict[int, Any] = {}
        self._asked = 0
        self._at_once = False
        self._pid = os.getpid()

    def before_train(self) -> None:
        self._old = {number: signal.signal(number, self._handle) for number in self.SIGNALS}

    def after_train(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._pid:  # a loader's worker, which Ctrl-C in a terminal reaches too
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = self.trainer.stop_wish = 128 + number
        if self._at_once:
            raise Stopped(self._asked)
        if comm.is_main_process():
            name = signal.Signals(number).name
            logger.warning("%s: a checkpoint is written at the end of this step, then exit", name)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Where nothing of the run's state changes, a signal need not wait."""
        if self._asked:
            raise Stopped(self._asked)
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def after_step(self) -> None:
        """To be registered before what may take long, and after what must be done in each step."""
        if self.trainer.stop_code:
            raise Stopped(self.trainer.stop_code)
