"""Reading and writing checkpoints: tensors, numbers and strings, nothing that runs code."""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .download import fetch_published, fetch_url
from .zoo import PUBLISHED, nearest_names

__all__ = [
    "CheckpointFile",
    "newest_checkpoint",
    "read_checkpoint",
    "read_state",
    "write_checkpoint",
]

TORCH_SUFFIXES = (".pth", ".pt", ".pyth", ".bin")
SAFETENSORS = ".safetensors"
# official Hiera; SAM 2, Detectron2; Lightning; birder
WRAPPERS = ("model_state", "model", "state_dict", "state")
MODULE_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
META_KEY = "hiera_det"


@dataclass(frozen=True)
class CheckpointFile:
    """A state dict, and what the file says about it (`variant`, `source`, `pos_embed`)."""

    path: str
    state: dict[str, Tensor]
    meta: dict[str, Any]


def read_checkpoint(path: str) -> CheckpointFile:
    """Reads .pth, .pt, .pyth, .bin or .safetensors on the CPU.

    The state dict may lie bare or under one of WRAPPERS; a `module.` before every key is dropped.
    PyTorch files are read with `weights_only=True`: no code in them runs.

    Args:
        path: a file; or an address, http(s)://; or a name of `zoo`, such as "mae_hiera_base_224".
            What is not on this machine yet is fetched.

    Raises:
        FileNotFoundError: no such file; names the nearest in its folder, and published ones.
        DownloadError: it cannot be fetched.
        ValueError: damaged; holds more than tensors and plain values; holds no tensors; a suffix
            that is none of the above.
    """
    local = _local_path(str(path))
    suffix = os.path.splitext(local)[1].lower()
    if suffix == SAFETENSORS:
        state, meta = _read_safetensors(local)
    elif suffix in TORCH_SUFFIXES:
        content = _read_torch(local)
        meta = content.get(META_KEY, {}) if isinstance(content, Mapping) else {}
        meta = meta or _birder_pixels(content)
        state = _unwrap(content, local)
    else:
        known = ", ".join((*TORCH_SUFFIXES, SAFETENSORS))
        raise ValueError(f"{path}: the suffix {suffix!r} is none of {known}")
    if not state:
        raise ValueError(f"{path} holds no tensors: its state dict is empty")
    if not isinstance(meta, Mapping):
        raise ValueError(f"{path}: {META_KEY!r} is a {type(meta).__name__}, not a dict")
    published = PUBLISHED.get(re.sub(r"\.(pt|pth)$", "", os.path.basename(path)))
    if published is not None and published.variant is not None:
        meta = {"variant": published.variant, **meta}
    return CheckpointFile(str(path), _strip_module(state), dict(meta))


def newest_checkpoint(folder: str) -> Path:
    """The checkpoint that a run's output folder names as its last.

    Raises:
        FileNotFoundError: it names none.
    """
    last = Path(folder) / "last_checkpoint"
    if not last.is_file():
        raise FileNotFoundError(f"{folder} holds no last_checkpoint: it is no folder of a run")
    return last.with_name(last.read_text().strip())


def read_state(path: str) -> dict[str, Any]:
    """The whole content of a checkpoint of a run: "model", "trainer", "hiera_det", ….

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint`; it has no "model".
    """
    content = _read_torch(_local_path(str(path)))
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise ValueError(f"{path} is no checkpoint of a run: it has no 'model'")
    return dict(content)


def write_checkpoint(path: str, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes {"model": state, "hiera_det": meta}; in .safetensors, meta is the file's metadata.

    The file appears under its name only once it is complete.

    Args:
        path: .pth or .safetensors.
        state: tensors.
        meta: numbers and strings; strings alone survive in .safetensors, so numbers become strings.

    Raises:
        ValueError: another suffix.
        FileExistsError: there is such a file; nothing is overwritten.
        FileNotFoundError: there is no such folder.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".pth", SAFETENSORS):
        raise ValueError(f"{path}: write .pth or {SAFETENSORS}")
    if os.path.exists(path):
        raise FileExistsError(f"{path} exists; remove it or choose another name")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise FileNotFoundError(f"{path}: there is no folder {os.path.dirname(path)}")
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        if suffix == SAFETENSORS:
            _safetensors().save_file(state, temporary, {k: str(v) for k, v in meta.items()})
        else:
            torch.save({"model": state, META_KEY: dict(meta)}, temporary)
        os.rename(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


# ------------------------------------------------------------------------------------ helpers
def _local_path(path: str) -> str:
    if path.startswith(("http://", "https://")):
        return str(fetch_url(path))
    path = os.path.expanduser(path)
    if os.path.isfile(path):
        return path
    published = PUBLISHED.get(path)
    if published is not None:
        if published.is_video:
            raise ValueError(
                f"{path} is a model of video, 16 frames, which no image trunk computes; "
                f"take {path.replace('16x224', '224')}"
            )
        return str(fetch_published(published))
    raise FileNotFoundError(_no_such_file(path))


def _no_such_file(path: str) -> str:
    folder, name = os.path.split(path)
    names = nearest_names(name)
    by_name = f"; published ones are fetched by name: {', '.join(names)}" if names else ""
    folder = folder or "."
    if not os.path.isdir(folder):
        return f"{path}: there is no folder {folder}{by_name}"
    files = sorted(f for f in os.listdir(folder) if f.endswith((*TORCH_SUFFIXES, SAFETENSORS)))
    near = difflib.get_close_matches(name, files, n=3, cutoff=0.4)
    hint = f"nearest in {folder}: {', '.join(near)}" if near else f"{folder} has none like it"
    return f"{path} does not exist; {hint}{by_name}"


def _birder_pixels(content: Any) -> dict[str, str]:
    """Pixel statistics of a file of birder, in our form; its models have means of their own."""
    stats = content.get("rgb_stats") if isinstance(content, Mapping) else None
    if not isinstance(stats, Mapping):
        return {}
    return {
        f"pixel_{key}": " ".join(f"{255 * x:g}" for x in stats[key])
        for key in ("mean", "std")
        if key in stats
    }


def _read_torch(path: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        refused = re.search(r"GLOBAL ([A-Za-z_][\w.]+)", str(error))
        if refused:
            raise ValueError(
                f"{path} is refused: it holds more than tensors and plain values "
                f"({refused[1]}), which could run code when loaded. If you trust its author, save "
                "the weights alone: torch.save(torch.load(file, weights_only=False)['model'], new)"
            ) from error
        reason = f"{type(error).__name__} {error}".strip().split("\n")[0][:200]
        raise ValueError(
            f"{path} is damaged or no checkpoint of PyTorch: {reason} "
            f"(of {os.path.getsize(path)} bytes; copy or download it again)"
        ) from error


def _safetensors():
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(".safetensors files need `pip install safetensors`") from error
    return safetensors.torch


def _read_safetensors(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    _safetensors()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error


def _unwrap(content: Any, path: str) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    state, where = content, "its top level"
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            state, where = content[wrapper], repr(wrapper)
            break
    other = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise ValueError(
            f"{path} holds no state dict: {where} has {other[0]!r}, a "
            f"{type(state[other[0]]).__name__}. Expected are tensors, bare or under one of "
            f"{', '.join(WRAPPERS)}"
        )
    return dict(state)


def _strip_module(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in MODULE_PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
