"""Hooks of a run: seeds, memory, averaged weights, evaluation, metrics, signals."""

import contextlib
import logging
import math
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from hiera_det.report.curves import read_metrics

from .checkpointer import DiskFullError, RunCheckpointer, check_free_space
from .trainer import Stopped

__all__ = ["EMA", "Evaluation", "IterationSeed", "MemoryStats", "MetricsWriter", "StopOnSignal"]

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
        if self.trainer.device.type == "cuda":
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
        self.source, self.decay, self.share = model, decay, decay
        self.averaged = AveragedModel(model, avg_fn=self._average, use_buffers=True)

    def _average(self, averaged: Tensor, current: Tensor, num_averaged: Any) -> Tensor:
        if not averaged.is_floating_point():  # counters of batch norms
            return current
        return torch.lerp(current, averaged, self.share)

    @property
    def model(self) -> nn.Module:
        """The model with averaged weights."""
        return self.averaged.module

    @torch.no_grad()
    def after_step(self) -> None:
        steps = int(self.averaged.n_averaged)
        self.share = min(self.decay, (1 + steps) / (10 + steps))
        self.averaged.update_parameters(self.source)


class AveragedWeights:
    """The state of an EMA in a checkpoint, under "ema"."""

    def __init__(self, ema: EMA):
        self.ema = ema

    def start(self) -> None:
        """Begins the average with the weights of now."""
        self.ema.model.load_state_dict(self.ema.source.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return self.ema.averaged.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.ema.averaged.load_state_dict(state)


# ------------------------------------------------------------------------------------ evaluation
class Evaluation(HookBase):
    """Evaluates, keeps the best checkpoint, and stops a run that no longer improves.

    Evaluation is after every `period` iterations and after the last. Results enter the storage as
    "segm/AP" and so on. The best is by mask AP, by box AP without masks, or by top-1.

    A checkpoint is written before the evaluation, which may take long, and so does not know its
    results. A resumed run reads them, and what was best, in the metrics of the run; an evaluation
    that was cut short is done first.
    """

    def __init__(
        self,
        period: int,
        evaluate: Callable[[nn.Module], Mapping[str, Any]],
        model: nn.Module,
        *,
        metrics: Path | None = None,
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
            metrics: metrics.json of the run.
            best: writes model_best.pth of it, if given.
            patience: evaluations without a better result before the run stops; 0 never stops.
            stop: may interrupt an evaluation.
        """
        self.period, self.evaluate, self.model = period, evaluate, model
        self.metrics, self.best, self.patience, self.stop = metrics, best, patience, stop
        self.best_value, self.best_iter, self.waited = -math.inf, -1, 0

    def before_train(self) -> None:
        """Takes up the results of a resumed run."""
        last = self.trainer.start_iter - 1
        if last < 0:
            return
        done = self._read_results(last)
        for iteration, value in sorted(done.items()):
            self._compare(iteration, value)
        if comm.all_gather(self._is_due(last) and last not in done)[0]:
            self._evaluate(last)
        self._stop_early(last)

    def after_step(self) -> None:
        if self._is_due(self.trainer.iter):
            self._evaluate(self.trainer.iter)
            self._stop_early(self.trainer.iter)

    def _is_due(self, iteration: int) -> bool:
        done = iteration + 1
        return done == self.trainer.max_iter or (self.period > 0 and done % self.period == 0)

    def _read_results(self, last: int) -> dict[int, float]:
        """The results up to an iteration, on the main process."""
        if self.metrics is None or not self.metrics.is_file() or not comm.is_main_process():
            return {}
        try:
            curves = read_metrics(self.metrics)
        except ValueError:  # there are none yet
            return {}
        for name in METRICS:
            results = zip(*curves.get(name, ([], [])), strict=True)
            finite = {k: v for k, v in results if k <= last and math.isfinite(v)}
            if finite:
                return finite
        return {}

    def _evaluate(self, iteration: int) -> None:
        with self.stop.at_once() if self.stop else contextlib.nullcontext():
            results = flatten(self.evaluate(self.model) or {})
        self.trainer.storage.put_scalars(**results, smoothing_hint=False, cur_iter=iteration)
        comm.synchronize()  # those that have no results wait for the main process
        name = next((m for m in METRICS if math.isfinite(results.get(m, math.nan))), None)
        if name is None or not self._compare(iteration, results[name]):
            return
        logger.info("Best so far: %s %.2f at iteration %d", name, results[name], iteration + 1)
        if self.best is not None:
            self.best.save("model_best", tag=False, iteration=iteration, best={name: results[name]})

    def _compare(self, iteration: int, value: float) -> bool:
        """Whether a result is the best so far."""
        better = value > self.best_value
        if better:
            self.best_value, self.best_iter = value, iteration
        self.waited = 0 if better else self.waited + 1
        return better

    def _stop_early(self, iteration: int) -> None:
        """Lets the run end here if it has waited long enough; the main process decides."""
        is_enough = comm.all_gather(self.patience > 0 and self.waited >= self.patience)[0]
        if is_enough and iteration + 1 < self.trainer.max_iter:
            logger.info(
                "Stopping early: %d evaluations without one better than %.2f at iteration %d "
                "(train.early_stop.patience)",
                self.waited, self.best_value, self.best_iter + 1,
            )  # fmt: skip
            self.trainer.max_iter = iteration + 1


def flatten(results: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """{"bbox": {"AP": 1.0}} as {"bbox/AP": 1.0}; what is no number is left out."""
    flat: dict[str, float] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            flat[f"{prefix}{key}"] = float(value)
    return flat


# ------------------------------------------------------------------------------------ metrics
class MetricsWriter(hooks.PeriodicWriter):
    """Detectron2's PeriodicWriter, which ends the run while there is room for whole lines.

    A writer that meets a full disk leaves half a line, and TensorBoard's a traceback of its thread.
    """

    RESERVE = 2**20  # bytes; far more than what the writers write at once

    def __init__(self, writers, period: int, folder: Path):
        """
        Args:
            writers: as PeriodicWriter.
            period: iterations between two calls of them.
            folder: that they write to.
        """
        super().__init__(writers, period)
        self.period, self.folder = period, folder

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        is_due = done % self.period == 0 or done == self.trainer.max_iter
        # A resumed run reads what was best from them, so results do not wait for the next line.
        latest = self.trainer.storage.latest()
        has_results = any(latest.get(name, (0, -1))[1] == self.trainer.iter for name in METRICS)
        if is_due or has_results:
            check_free_space(self.folder, self.RESERVE, "what metrics.json and TensorBoard append")
        super().after_step()
        if has_results and not is_due:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        with contextlib.suppress(DiskFullError):  # which has ended the run already
            check_free_space(self.folder, self.RESERVE // 16, "the last metrics")
            super().after_train()


# ------------------------------------------------------------------------------------ signals
class StopOnSignal(HookBase):
    """Ends the run after the step in which SIGTERM or Ctrl-C came; a second Ctrl-C, at once.

    All processes stop after the same step: `Trainer` exchanges the wish with every step, so one
    that comes late in a step is heard in the next. Signals are heard inside `with stop:`, which is
    to last until the checkpoint is written.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)
    REPEAT = 2.0  # s in which a second Ctrl-C is the first, passed on by torchrun or a shell

    def __init__(self) -> None:
        self._old: dict[int, Any] = {}
        self._asked = 0
        self._asked_at = 0.0
        self._at_once = False
        self._pid = os.getpid()

    def __enter__(self) -> "StopOnSignal":
        self._old = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        self._old[signal.SIGCHLD] = signal.getsignal(signal.SIGCHLD)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._old = {}

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._pid:  # a loader's worker, which Ctrl-C in a terminal reaches too
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self._asked:
            if number == signal.SIGINT and time.monotonic() - self._asked_at > self.REPEAT:
                raise KeyboardInterrupt
            return
        # The signal may have ended the loader's workers too, of which torch would tell by an error
        # in the middle of whatever this process is doing.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._asked, self._asked_at = 128 + number, time.monotonic()
        self.trainer.stop_wish = self._asked
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
