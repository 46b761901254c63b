"""Log handlers of a run, and log calls that speak only now and then."""

import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from tabulate import tabulate
from termcolor import colored

__all__ = [
    "setup_logger",
    "log_every_n_seconds",
    "create_small_table",
]

_DATE = "%m/%d %H:%M:%S"
_LAST_TIME: dict[Any, float] = {}  # of log_every_n_seconds, by key


class _Formatter(logging.Formatter):
    """Shortens the root of logger names (``detectron2`` to ``d2``) and colours warnings."""

    def __init__(self, *args: Any, name: str, abbrev_name: str, color: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._name, self._abbrev, self._color = name, abbrev_name, color

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.name.startswith(self._name + "."):
            record = logging.makeLogRecord(record.__dict__)
            record.name = self._abbrev + record.name.removeprefix(self._name)
        line = super().formatMessage(record)
        if not self._color or record.levelno < logging.WARNING:
            return line
        return colored(record.levelname, "red", attrs=["bold"]) + " " + line


class _StdoutHandler(logging.StreamHandler):
    """Writes to what ``sys.stdout`` is at the time, so that it may be redirected later."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stdout


def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Attach handlers to the logger ``name``: stdout on rank 0, a file on every rank.

    Args:
        output: a folder (the file is then ``log.txt``) or a name that ends in .txt or .log; None
            writes no file. Ranks above 0 append ``.rank<n>`` to the name.
        distributed_rank: rank of this process.
        color: colour the lines on stdout.
        name: logger to configure.
        abbrev_name: what to print for it; ``d2`` for ``detectron2``.
        enable_propagation: also pass records on to the root logger.
        configure_stdout: whether rank 0 writes to stdout.

    Returns:
        The logger, at level DEBUG.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    names = {"name": name, "abbrev_name": abbrev_name or ("d2" if name == "detectron2" else name)}
    plain = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
    # A second call must not write every line twice.
    present = {getattr(handler, "baseFilename", type(handler)) for handler in logger.handlers}

    if configure_stdout and distributed_rank == 0 and _StdoutHandler not in present:
        handler = _StdoutHandler()
        start = "[%(asctime)s %(name)s]: "
        form = colored(start, "green") + "%(message)s" if color else plain
        handler.setFormatter(_Formatter(form, _DATE, color=color, **names))
        logger.addHandler(handler)

    if output is not None:
        is_file = output.endswith((".txt", ".log"))
        filename = os.path.abspath(output if is_file else os.path.join(output, "log.txt"))
        if distributed_rank > 0:
            filename += f".rank{distributed_rank}"
        if filename not in present:
            os.makedirs(os.path.dirname(filename), exist_ok=True)
            handler = logging.FileHandler(filename)
            handler.setFormatter(_Formatter(plain, _DATE, color=False, **names))
            logger.addHandler(handler)
    return logger


def _caller() -> tuple[str, tuple[str, int]]:
    """Module name and (file, line) of the code that called a ``log_*`` function."""
    frame = sys._getframe(2)
    return frame.f_globals.get("__name__", __name__), (frame.f_code.co_filename, frame.f_lineno)


def log_every_n_seconds(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log from one line of code, but not again within ``n`` seconds."""
    module, place = _caller()
    now = time.monotonic()
    if now - _LAST_TIME.get(place, -float("inf")) >= n:
        _LAST_TIME[place] = now
        logging.getLogger(name or module).log(lvl, msg)


def create_small_table(small_dict: Mapping[str, Any]) -> str:
    """Format a dict of few items as a table of one row, keys above values."""
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )
