"""fvcore's Checkpointer with Detectron2's conventions, safe loading and atomic saving."""

import logging
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import parse_qs

import numpy as np
import torch
from detectron2 import absent_message
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer
from torch import nn

__all__ = ["DetectionCheckpointer"]


class DetectionCheckpointer(Checkpointer):
    """Load and save ``{"model": state_dict, <checkpointable>: its state, ...}``.

    Files are read with ``weights_only=True``. They appear under their name only once they are
    complete, and ``last_checkpoint`` names only complete ones, whenever the process dies.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        """Args:
        model: module, possibly in DistributedDataParallel, whose state is kept.
        save_dir: folder to save in; without one nothing is saved.
        save_to_disk: None lets rank 0 save.
        checkpointables: further objects with ``state_dict`` and ``load_state_dict``.
        """
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager
        self._by_suffix = False

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint, in every process.

        Args:
            path: path or URL, or nothing to load nothing. With ``?matching_heuristics=True`` at its
                end, a weight goes to the model's key that ends in ``.`` and the checkpoint's key.
            args, kwargs: ``checkpointables``, the names to load besides the model; None is all.

        Returns:
            What the checkpoint holds besides the model and the checkpointables.

        Raises:
            FileNotFoundError: a process does not find the file.
            ValueError: the file is no checkpoint, or one that only unsafe loading can read.
        """
        path, _, query = (path or "").partition("?")
        options = parse_qs(query)
        self._by_suffix = options.pop("matching_heuristics", ["False"]) == ["True"]
        if options:
            raise ValueError(f"{path}?{query}: the one option is matching_heuristics=True")
        if path:
            path = self.path_manager.get_local_path(path)
            # Together: a process that fails alone leaves the others waiting for it.
            found = comm.all_gather(os.path.isfile(path))
            if not all(found):
                ranks = [rank for rank, here in enumerate(found) if not here]
                raise FileNotFoundError(f"Checkpoint {path} not found! (on ranks {ranks})")
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read a local file; a bare state_dict becomes ``{"model": state_dict}``."""
        if filename.endswith(".pkl"):
            raise NotImplementedError(absent_message(f"Loading {filename}, a Detectron .pkl file,"))
        checkpoint = self._torch_load(filename)
        if not isinstance(checkpoint, Mapping):
            raise ValueError(f"{filename} holds a {type(checkpoint).__name__}, not a state_dict")
        if "model" not in checkpoint:
            checkpoint = {"model": checkpoint}
        for key, value in checkpoint["model"].items():
            if not isinstance(value, torch.Tensor):
                raise ValueError(
                    f"{filename}: {key!r} is a {type(value).__name__}, not a tensor. Expected is "
                    "a state_dict or {'model': state_dict}; if the weights are under another key, "
                    "save them again as torch.save({'model': checkpoint[key]}, ...)"
                )
        return checkpoint

    def _torch_load(self, filename: str) -> Any:
        try:
            return torch.load(filename, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            refused = re.search(r"GLOBAL (\S+)", str(error))
            if not refused:
                raise ValueError(f"{filename} is damaged, or no checkpoint: {error}") from error
            raise ValueError(
                f"{filename} holds more than tensors, numbers and strings ({refused[1]}), which "
                "could run code when loaded. If you trust it, save its weights alone: "
                "torch.save({'model': torch.load(file, weights_only=False)['model']}, new_file)"
            ) from error

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if checkpoint.pop("matching_heuristics", False) or self._by_suffix:
            checkpoint["model"] = _match_suffixes(self.model.state_dict(), checkpoint["model"])
        return super()._load_model(checkpoint)

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` with ``kwargs`` beside the states, and tag it as last."""
        if not self.save_dir or not self.save_to_disk:
            return
        if os.path.basename(name) != name:
            raise ValueError(f"{name!r} is not a plain file name")
        states = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        filename = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", filename)
        with _replace(filename, "wb") as file:
            torch.save(_plain({"model": self.model.state_dict(), **states, **kwargs}), file)
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make ``last_checkpoint`` name this file of ``save_dir``."""
        with _replace(os.path.join(self.save_dir, "last_checkpoint"), "w") as file:
            file.write(last_filename_basename)


@contextmanager
def _replace(filename: str, mode: str) -> Iterator[IO[Any]]:
    """Open a temporary file that takes the place of ``filename`` when the block is done."""
    # One name for all, so that what a killed process left is overwritten, not collected.
    temporary = os.path.join(os.path.dirname(filename), "checkpoint.tmp")
    with open(temporary, mode) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, filename)


def _plain(value: Any) -> Any:
    """Copy nested containers with numpy's scalars as Python's: safe loading refuses the former."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {_plain(key): _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value


def _match_suffixes(
    model: Mapping[str, torch.Tensor], checkpoint: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Rename checkpoint keys to the model keys that end in them.

    A model key takes the longest checkpoint key that is the whole of it or follows a dot in it:
    ``backbone.bottom_up.blocks.0.bias`` takes ``blocks.0.bias``. Other shapes are left alone, with
    a warning.

    Raises:
        ValueError: two model keys would take the same checkpoint key.
    """
    renamed: dict[str, str] = {}
    for name, value in model.items():
        parts = name.split(".")
        suffixes = (".".join(parts[start:]) for start in range(len(parts)))
        key = next((suffix for suffix in suffixes if suffix in checkpoint), None)
        if key is None:
            continue
        if checkpoint[key].shape != value.shape:
            logging.getLogger(__name__).warning(
                "%s has shape %s in the checkpoint, but %s has %s in the model: not loaded",
                key, tuple(checkpoint[key].shape), name, tuple(value.shape),
            )  # fmt: skip
        elif key in renamed:
            raise ValueError(
                f"{key} of the checkpoint fits multiple keys of the model: {renamed[key]}, {name}"
            )
        else:
            renamed[key] = name
    return {renamed.get(key, key): value for key, value in checkpoint.items()}
