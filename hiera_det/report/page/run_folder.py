"""A run's folder as a report reads it: config, curves, log, files, and what is missing."""

import ast
import logging
import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from hiera_det.config import load_config
from hiera_det.report.curves import Curve, read_metrics

__all__ = ["Run", "select"]

logger = logging.getLogger(__name__)

MAX_LOG = 4 << 20  # bytes of a log that are read from its start, and as many from its end
STAMP = re.compile(r"^\[(\d\d/\d\d \d\d:\d\d:\d\d)\]", re.M)
ARGUMENTS = re.compile(r"Command line arguments: Namespace\((.*)\)$", re.M)
CONFIG_FILE = re.compile(r"config_file='((?:[^'\\]|\\.)*)'")
OPTIONS = re.compile(r"opts=\[(.*?)\](?:, \w+=|$)")
ENVIRONMENT = re.compile(r"Environment info:\n-+ +-+\n(.*?)\n-+ +-+", re.S)
TRAINING_TIME = re.compile(r"Total training time: (\S+)")


@dataclass
class Run:
    """What a folder holds.

    Attributes:
        folder: output_dir of a training or an evaluation.
        cfg: of its config.yaml; None without one.
        config_text: that file, as it stands.
        curves: see `read_metrics`.
        log: the beginning and the end of log.txt.
        notes: lines that say what is missing, or is left out.
    """

    folder: Path
    cfg: DictConfig | None = None
    config_text: str = ""
    curves: dict[str, Curve] = field(default_factory=dict)
    log: str = ""
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "Run":
        """
        Raises:
            FileNotFoundError: there is no such folder, or it holds nothing of a run.
        """
        run = cls(Path(folder))
        if not run.folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; give the output_dir of a run")
        config, metrics = run.folder / "config.yaml", run.folder / "metrics.json"
        if not config.is_file() and not metrics.is_file():
            raise FileNotFoundError(
                f"{folder} holds neither config.yaml nor metrics.json; give the output_dir of a run"
            )
        run._read_config(config)
        try:
            run.curves = read_metrics(metrics)
        except FileNotFoundError:
            run.notes.append(
                "metrics.json is not there: no curves (an evaluation has none, a training writes "
                "the first ones after train.log_period iterations)."
            )
        except ValueError as error:
            run.notes.append(f"No curves: {error}")
        run._read_log(run.folder / "log.txt")
        return run

    def _read_config(self, path: Path) -> None:
        if not path.is_file():
            self.notes.append("config.yaml is not there: no settings, and no data to look at.")
            return
        self.config_text = path.read_text(errors="replace")
        try:
            self.cfg = load_config(path)
        # whatever a config of an older version, of other packages or without its data raises
        except Exception as error:
            self.notes.append(f"config.yaml cannot be loaded, so that data are not shown: {error}")

    def _read_log(self, path: Path) -> None:
        if not path.is_file():
            self.notes.append("log.txt is not there: no command, no machine, no time.")
            return
        with open(path, "rb") as file:
            text = file.read(MAX_LOG)
            if path.stat().st_size > 2 * MAX_LOG:
                file.seek(-MAX_LOG, 2)
            text += file.read()
        self.log = text.decode(errors="replace")

    # ------------------------------------------------------------------------------- what is said
    def is_evaluation(self) -> bool:
        """Whether the folder is that of an evaluation alone."""
        found = ARGUMENTS.findall(self.log)
        return bool(found) and "eval_only=True" in found[-1]

    def command(self) -> str:
        """The command of the run's last start as it would be typed today; "" if unknown."""
        found = ARGUMENTS.findall(self.log)
        config = CONFIG_FILE.search(found[-1]) if found else None
        if config is None:
            return ""
        target = str(select(self.cfg, "model._target_", ""))
        verb = "train"
        if self.is_evaluation():
            verb = "eval"
        elif target.startswith("pretrain."):
            verb = "pretrain"
        elif select(self.cfg, "model.num_classes") is not None:
            verb = "finetune"
        options = OPTIONS.search(found[-1])
        try:
            words = ast.literal_eval(f"[{options[1]}]") if options else []
        except (ValueError, SyntaxError):
            words = []
        return shlex.join(["hiera-det", verb, "--config-file", config[1], *map(str, words)])

    def environment(self) -> list[tuple[str, str]]:
        """Rows of the table that a run's log begins with: system, versions, GPU."""
        found = ENVIRONMENT.findall(self.log)
        lines = found[-1].splitlines() if found else []
        # Words of a name stand one space apart, name and value more.
        rows = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines]
        return [(row[0], row[1]) for row in rows if len(row) == 2]

    def times(self) -> str:
        """When it began and how long it trained, from the log."""
        stamps = STAMP.findall(self.log)
        if not stamps:
            return ""
        lasted = TRAINING_TIME.findall(self.log)
        text = f"{stamps[0]} to {stamps[-1]} (month/day)"
        return f"{text}, {lasted[-1]} of training" if lasted else text

    def files(self) -> list[Path]:
        """Every file of the folder, by name; those of one folder together."""
        return sorted(
            (path for path in self.folder.rglob("*") if path.is_file()),
            key=lambda path: (len(path.relative_to(self.folder).parts), str(path)),
        )


def select(cfg: DictConfig | None, key: str, default=None):
    """A value of a config by its dotted name; the default also where it cannot be worked out."""
    if cfg is None:
        return default
    try:
        value = OmegaConf.select(cfg, key)
    except Exception as error:  # a formula over files that are gone
        logger.debug("%s: %s", key, error)
        return default
    return default if value is None else value
