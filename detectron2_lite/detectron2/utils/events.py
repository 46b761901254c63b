"""Metrics of a run: where they are collected and who writes them."""

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

from .file_io import PathManager

__all__ = [
    "get_event_storage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "EventStorage",
]

_STORAGES: list["EventStorage"] = []  # those whose ``with`` block is open, innermost last


def get_event_storage() -> "EventStorage":
    """Storage of the innermost open ``with EventStorage(...)``; AssertionError where none is."""
    assert _STORAGES, "No storage is open: metrics are put inside `with EventStorage(...)`"
    return _STORAGES[-1]


class EventStorage:
    """Scalars by name and iteration, and images waiting for a writer.

    A scalar put with ``smoothing_hint`` (losses, times) is reported as the median over the last
    iterations; one without (learning rate, AP) as it is.
    """

    def __init__(self, start_iter: int = 0) -> None:
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest_scalars: dict[str, tuple[float, int]] = {}
        self._vis_data: list[tuple[str, torch.Tensor, int]] = []
        self._prefix = ""
        self.iter = start_iter

    @property
    def iter(self) -> int:
        """Current iteration; scalars are filed under it."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)

    def step(self) -> None:
        """Go to the next iteration. Trainers set ``iter`` instead."""
        self.iter += 1

    def put_scalar(
        self, name: str, value: float, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Add one scalar.

        Args:
            name: a ``/`` in it makes groups in tensorboard.
            value: a number or a tensor of one element.
            smoothing_hint: whether the scalar is noisy, so that writers report its median.
            cur_iter: iteration to file it under, the current one by default.
        """
        name = self._prefix + name
        cur_iter = self.iter if cur_iter is None else cur_iter
        value = float(value)
        assert self._smoothing_hints.setdefault(name, smoothing_hint) == smoothing_hint, (
            f"Scalar {name} was put before with smoothing_hint={not smoothing_hint}"
        )
        self._history[name].update(value, cur_iter)
        self._latest_scalars[name] = (value, cur_iter)

    def put_scalars(
        self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: float
    ) -> None:
        """Add several scalars: ``put_scalars(loss_a=1.0, loss_b=2.0)``."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: torch.Tensor) -> None:
        """Add an image of shape (C, H, W), RGB, uint8 or float in [0, 1]."""
        self._vis_data.append((img_name, img_tensor, self.iter))

    def clear_images(self) -> None:
        """Forget the images; a writer calls it once they are written."""
        self._vis_data = []

    def history(self, name: str) -> HistoryBuffer:
        """All values of one scalar; KeyError where it was never put."""
        if name not in self._history:
            raise KeyError(f"No scalar {name!r} was put; there are {sorted(self._history)}")
        return self._history[name]

    def histories(self) -> Mapping[str, HistoryBuffer]:
        """All values of all scalars, by name."""
        return self._history

    def latest(self) -> Mapping[str, tuple[float, int]]:
        """Last (value, iteration) of every scalar."""
        return self._latest_scalars

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """Number of values of a scalar in its last ``window_size`` iterations."""
        if name not in self._history:
            return 0
        last = self._latest_scalars[name][1]
        return sum(iteration > last - window_size for _, iteration in self._history[name].values())

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """``latest``, with the median of the last ``window_size`` iterations of noisy scalars."""
        return {
            name: (self._smooth(name, window_size) if self._smoothing_hints[name] else value, it)
            for name, (value, it) in self._latest_scalars.items()
        }

    def _smooth(self, name: str, window_size: int) -> float:
        return float(self._history[name].median(self.count_samples(name, window_size)))

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Prefix the names put inside with ``name/``. A scope within a scope replaces it."""
        outer, self._prefix = self._prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = outer

    def __enter__(self) -> "EventStorage":
        _STORAGES.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert _STORAGES.pop() is self, "EventStorage contexts were closed out of order"


class EventWriter:
    """Writes what the current storage holds, to somewhere."""

    def write(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Called once, after the last ``write``."""


class JSONWriter(EventWriter):
    """One JSON object per iteration that has new scalars, one per line, appended to a file."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        """Open ``json_file`` for appending; ``window_size`` is that of the medians."""
        self._file = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                lines[iteration][name] = value
        for iteration in sorted(lines):
            record = {**lines[iteration], "iteration": iteration}
            self._file.write(json.dumps(record, sort_keys=True) + "\n")
            self._last_write = iteration
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Scalars and images as tensorboard event files."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        """Args:
            log_dir: folder of the event files.
            window_size: that of the medians.
            kwargs: for ``torch.utils.tensorboard.SummaryWriter``.

        Raises:
            ImportError: tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorboardXWriter needs tensorboard: pip install tensorboard, or leave this "
                "writer out of the list of writers"
            ) from error
        self._writer = SummaryWriter(log_dir, **kwargs)
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        storage = get_event_storage()
        newest = self._last_write
        for name, (value, it) in storage.latest_with_smoothing_hint(self._window_size).items():
            if it > self._last_write:
                self._writer.add_scalar(name, value, it)
                newest = max(newest, it)
        self._last_write = newest
        for name, image, iteration in storage._vis_data:
            self._writer.add_image(name, image, iteration)
        # The storage keeps images in memory until a writer has had them.
        storage.clear_images()

    def close(self) -> None:
        self._writer.close()
