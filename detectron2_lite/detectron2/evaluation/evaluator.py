"""The evaluator interface, and the loop that feeds one from a model."""

import contextlib
import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds

__all__ = [
    "DatasetEvaluator",
    "DatasetEvaluators",
    "inference_context",
    "inference_on_dataset",
]

logger = logging.getLogger(__name__)

_NUM_WARMUP = 5  # first batches, whose time says little about the others


class DatasetEvaluator:
    """Collects the predictions for a dataset, batch by batch, and scores them."""

    def reset(self) -> None:
        """Forget everything; called before the first batch."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take one batch.

        Args:
            inputs: what the model got.
            outputs: what it returned, one element for each input.
        """

    def evaluate(self) -> dict[str, Any] | None:
        """Score everything, in all processes.

        Returns:
            task -> metric -> number in the main process; None or ``{}`` is allowed elsewhere.
        """


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; their results are merged.

    Raises:
        ValueError: in ``evaluate``, when two evaluators report the same task.
    """

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        self._evaluators = list(evaluators)

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        merged = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            if not is_main_process() or result is None:
                continue
            twice = merged.keys() & result.keys()
            if twice:
                raise ValueError(f"two evaluators report {', '.join(sorted(twice))}")
            merged.update(result)
        return merged


def inference_on_dataset(
    model: Callable[[list[dict]], list[dict]],
    data_loader: Iterable[list[dict]],
    evaluator: DatasetEvaluator | Sequence[DatasetEvaluator] | None,
    callbacks: dict[str, Callable[[], None]] | None = None,
) -> dict[str, Any]:
    """Run the model over the loader without gradients, and evaluate. Logs progress and speed.

    Args:
        model: from inputs to outputs; an ``nn.Module`` is in eval mode meanwhile.
        data_loader: has a length; each process has its own share of the dataset.
        evaluator: one or several; None only runs the model.
        callbacks: functions without arguments under ``on_start``, ``before_inference``,
            ``after_inference``, ``on_end``.

    Returns:
        what the evaluator returns, ``{}`` instead of None.
    """
    if evaluator is None or not isinstance(evaluator, DatasetEvaluator):
        evaluator = DatasetEvaluators(evaluator or [])
    callbacks = callbacks or {}
    total = len(data_loader)
    logger.info("Start inference on %d batches", total)
    evaluator.reset()
    clock = _InferenceClock(total)
    with contextlib.ExitStack() as stack:
        if isinstance(model, torch.nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        callbacks.get("on_start", _nothing)()
        clock.restart()
        for done, inputs in enumerate(data_loader, start=1):
            clock.stop("data")
            callbacks.get("before_inference", _nothing)()
            outputs = model(inputs)
            callbacks.get("after_inference", _nothing)()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            clock.stop("model")
            evaluator.process(inputs, outputs)
            clock.stop("eval")
            clock.log_progress(done)
        callbacks.get("on_end", _nothing)()
    clock.log_total()
    results = evaluator.evaluate()
    return {} if results is None else results


def _nothing() -> None:
    pass


class _InferenceClock:
    """Seconds spent on loading data, in the model and in the evaluator, after a warm-up."""

    def __init__(self, num_batches: int) -> None:
        self.num_batches = num_batches
        self.num_skipped = min(_NUM_WARMUP, max(num_batches - 1, 0))
        self.num_timed = 0
        self.restart()

    def restart(self) -> None:
        self.started = self.last = time.perf_counter()
        self.spent = {"data": 0.0, "model": 0.0, "eval": 0.0}

    def stop(self, part: str) -> None:
        """Book the time since the last call under ``part``."""
        now = time.perf_counter()
        self.spent[part] += now - self.last
        self.last = now

    def log_progress(self, done: int) -> None:
        if done == self.num_skipped:
            self.restart()
        self.num_timed = done - self.num_skipped
        if self.num_timed <= 0:
            return
        per_batch = (time.perf_counter() - self.started) / self.num_timed
        eta = datetime.timedelta(seconds=int(per_batch * (self.num_batches - done)))
        parts = ", ".join(f"{k} {v / self.num_timed:.4f}" for k, v in self.spent.items())
        log_every_n_seconds(
            logging.INFO,
            f"Inference done {done}/{self.num_batches}. Seconds per batch: {parts}, "
            f"total {per_batch:.4f}. ETA={eta}",
            n=5,
            name=__name__,
        )

    def log_total(self) -> None:
        seconds = time.perf_counter() - self.started
        logger.info(
            "Total inference time: %s (%.6f s / batch per process, on %d processes), of which "
            "the model took %.6f s / batch",
            datetime.timedelta(seconds=int(seconds)),
            seconds / max(self.num_timed, 1),
            get_world_size(),
            self.spent["model"] / max(self.num_timed, 1),
        )


@contextlib.contextmanager
def inference_context(model: torch.nn.Module) -> Iterator[None]:
    """Put the model into eval mode, and back into the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
