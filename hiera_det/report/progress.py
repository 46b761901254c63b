"""Progress line of a run: iteration, ETA, losses, learning rate, time and memory."""

import datetime
import logging
import time

from detectron2.utils.events import EventWriter, get_event_storage

__all__ = ["ProgressPrinter"]


class ProgressPrinter(EventWriter):
    """Writes iteration, ETA, losses, learning rate, time and memory to the log.

    Like Detectron2's CommonMetricPrinter, with memory also without a GPU, images per second where
    the trainer records them, the share of the step spent waiting for data, and, once, a warning
    where that share says the run is input-bound.
    """

    def __init__(self, max_iter: int, window_size: int = 20):
        """
        Args:
            max_iter: length of the run, in iterations.
            window_size: iterations that medians are taken over.
        """
        self.max_iter = max_iter
        self.window_size = window_size
        self.logger = logging.getLogger(__name__)
        self._start: tuple[int, float] | None = None
        self._warned = False
        self._done = 0  # iterations that had their line

    def _median(self, name: str) -> float | None:
        try:
            storage = get_event_storage()
            return storage.history(name).median(min(self.window_size, storage.iter + 1))
        except KeyError:
            return None

    def write(self) -> None:
        storage = get_event_storage()
        # The call after training, and one after steps that loss scaling skipped, have no news.
        done = storage.latest().get("total_loss", (0.0, -1))[1] + 1
        if done == self._done:
            return
        self._done = done
        step, data = self._median("time"), self._median("data_time")
        parts = [f"iter {done}/{self.max_iter}"]
        eta = self._eta(done)
        if eta:
            parts.append(f"eta {eta}")
        losses = [name for name in storage.histories() if name.startswith("loss_")]
        loss = self._median("total_loss")
        parts.append(f"loss {float('nan') if loss is None else loss:.3f}")
        if losses:
            each = (f"{name.removeprefix('loss_')} {self._median(name):.3f}" for name in losses)
            parts.append(f"({', '.join(each)})")
        lr = storage.histories().get("lr")
        if lr is not None:
            parts.append(f"lr {lr.latest():.2e}")
        if step:
            waiting = f" ({100 * data / step:.0f}% waiting for data)" if data is not None else ""
            parts.append(f"{step:.3f} s/it{waiting}")
        pace = self._median("images_per_second")
        if pace:
            parts.append(f"{pace:.3g} images/s")
        memory = storage.histories().get("max_mem")
        if memory is not None:
            parts.append(f"mem {memory.latest() / 1024:.1f} GiB")
        self.logger.info("  ".join(parts))
        if step and data and done >= 2 * self.window_size and data > 0.4 * step:
            if not self._warned:
                self.logger.warning(
                    "Input-bound: %.0f %% of each step waits for data. More dataloader.train."
                    "num_workers, or a faster disk, would make this run faster.",
                    100 * data / step,
                )
            self._warned = True

    def _eta(self, done: int) -> str | None:
        """Of the mean pace since the first line, which counts evaluation and checkpoints."""
        now = time.perf_counter()
        if self._start is None:
            self._start = (done, now)
            step = self._median("time")
        else:
            step = (now - self._start[1]) / max(done - self._start[0], 1)
        if not step:
            return None
        return str(datetime.timedelta(seconds=int(step * (self.max_iter - done))))
