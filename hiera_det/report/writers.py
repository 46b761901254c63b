"""Metrics to an experiment tracker, wandb or trackio."""

import importlib
import inspect
import json
import math
from collections import defaultdict
from pathlib import Path

from detectron2.config import LazyConfig
from detectron2.utils.events import EventWriter, get_event_storage
from omegaconf import DictConfig, OmegaConf

__all__ = ["ExperimentWriter"]

TRACKERS = ("wandb", "trackio")


class ExperimentWriter(EventWriter):
    """Sends the scalars of a run to a tracker, by the functions that wandb and trackio share.

    The project is called hiera_det, the run as its folder; its configuration is the run's
    config.yaml. Files of wandb go into the folder of the run. Each start of a run that is resumed
    is a run of its own there.
    """

    def __init__(self, name: str, cfg: DictConfig, window_size: int = 20):
        """
        Args:
            name: "wandb" or "trackio".
            cfg: of the run, whose config.yaml is written.
            window_size: iterations that medians of noisy scalars are taken over.

        Raises:
            ValueError: another name.
            ImportError: the package is not installed; says how to.
        """
        if name not in TRACKERS:
            raise ValueError(f"train.writers: {name!r} is none of {', '.join(TRACKERS)}")
        try:
            self._tracker = importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"train.writers=[{name}] needs the package {name}: pip install {name}, or leave it "
                "out (metrics.json and TensorBoard are written in any case)"
            ) from error
        folder = Path(cfg.train.output_dir)
        saved = OmegaConf.to_container(LazyConfig.load(str(folder / "config.yaml")))
        config = json.loads(json.dumps(saved, default=str))  # plain values alone
        takes_folder = "dir" in inspect.signature(self._tracker.init).parameters  # wandb's does
        place = {"dir": str(folder)} if takes_folder else {}
        self._tracker.init(project="hiera_det", name=folder.resolve().name, config=config, **place)
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write and math.isfinite(value):
                lines[iteration][name] = value
        for iteration in sorted(lines):
            self._tracker.log(lines[iteration], step=iteration)
            self._last_write = iteration

    def close(self) -> None:
        self._tracker.finish()
