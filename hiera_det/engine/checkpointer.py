"""Checkpoints that are whole whatever happens while they are written."""

import errno
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

__all__ = ["DiskFullError", "RunCheckpointer", "check_free_space", "plain", "replace_file"]

logger = logging.getLogger(__name__)

TEMPORARY = "checkpoint.tmp"  # one name, so that a killed process leaves at most one


class DiskFullError(OSError):
    """There is no room for a file of a run; what was there before is whole."""


class RunCheckpointer(DetectionCheckpointer):
    """Detectron2's DetectionCheckpointer that writes beside and renames.

    A checkpoint holds tensors, numbers, strings, lists and dicts alone, so that every version of
    torch reads it with `weights_only=True`. Its file and `last_checkpoint` appear under their names
    only once they are complete.
    """

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Writes `name`.pth with the states of model and checkpointables, and `kwargs`.

        Args:
            name: without folder and suffix.
            tag: whether `--resume` is to go on from it.

        Raises:
            DiskFullError: it does not fit; the checkpoints that were there are whole.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: item.state_dict() for key, item in self.checkpointables.items()}
        content = plain({"model": self.model.state_dict(), **states, **kwargs})
        path = Path(self.save_dir) / f"{name}.pth"
        check_free_space(path.parent, _num_bytes(content), path.name)
        logger.info("Saving %s", path)
        replace_file(path, lambda file: torch.save(content, file))
        if tag:
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Names the checkpoint of `save_dir` that `--resume` goes on from."""
        path = Path(self.save_dir) / "last_checkpoint"
        replace_file(path, lambda file: file.write(last_filename_basename.encode()))


def check_free_space(folder: Path, needed: int, what: str) -> None:
    """Checks that a folder has room for a file.

    Raises:
        DiskFullError: `folder` has fewer than `needed` bytes free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFullError(
            errno.ENOSPC,
            f"the disk of {folder} is full: {what} needs {needed / 2**20:.1f} MiB, "
            f"{free / 2**20:.1f} MiB are free, {(needed - free) / 2**20:.1f} MiB are missing. The "
            "checkpoints that were there are whole: make room, or lower "
            "train.checkpointer.max_to_keep, and go on with --resume",
        )


def replace_file(path: Path, write) -> None:
    """Lets `write` fill a temporary file, which then takes the place of `path`.

    Raises:
        DiskFullError: the disk is full; the temporary file is gone, `path` as it was.
    """
    temporary = path.with_name(TEMPORARY)
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        is_full = getattr(error, "errno", None) == errno.ENOSPC or isinstance(error, RuntimeError)
        if is_full and temporary.exists() and shutil.disk_usage(path.parent).free < 2**20:
            written = temporary.stat().st_size
            raise DiskFullError(
                errno.ENOSPC,
                f"the disk of {path.parent} is full: {path.name} did not fit, after "
                f"{written / 2**20:.1f} MiB of it were written. The files that were there are "
                "whole: make room, and go on with --resume",
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any, where: str = "") -> Any:
    """A copy of nested containers with nothing but tensors, numbers, strings, lists and dicts.

    Raises:
        TypeError: anything else, by its place; that is a mistake of the program.
    """
    if isinstance(value, nn.Parameter):
        return value.detach()
    if value is None or type(value) in (bool, int, float, str, bytes) or isinstance(value, Tensor):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):  # OmegaConf's too
        return {plain(k, where): plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(v, f"{where}.{k}") for k, v in enumerate(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v, f"{where}.{k}") for k, v in enumerate(value)]
    raise TypeError(f"checkpoint{where} is a {type(value).__name__}, which no checkpoint may hold")


def _num_bytes(value: Any) -> int:
    """Bytes of the tensors in nested containers, and a little for the rest."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size() + 256
    if isinstance(value, str):
        return len(value.encode()) + 32
    if isinstance(value, Mapping):
        return sum(map(_num_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_num_bytes, value))
    return 32
