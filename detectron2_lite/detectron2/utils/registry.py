"""Names to objects and back: registries, dotted paths."""

import builtins
import importlib
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """Return the object at a dotted path such as ``"torch.nn.Linear"`` or ``"int"``.

    Raises:
        ImportError: nothing is there, or a module on the way fails to import.
    """
    if hasattr(builtins, name):
        return getattr(builtins, name)
    parts = name.split(".")
    try:
        found = importlib.import_module(parts[0])
        for count, part in enumerate(parts[1:], start=2):
            try:
                found = getattr(found, part)
            except AttributeError:
                found = importlib.import_module(".".join(parts[:count]))
    except ImportError as error:
        raise ImportError(f"Error loading {name!r}: {error}", name=name) from error
    return found


def _convert_target_to_string(target: Any) -> str:
    """Return the shortest dotted path at which ``locate`` finds ``target`` itself.

    ``detectron2.layers.shape_spec.ShapeSpec`` becomes ``"detectron2.layers.ShapeSpec"``. An object
    that no path reaches (one defined in a function or in a config file) keeps its full name.
    """
    module, qualname = target.__module__.split("."), target.__qualname__
    for count in range(1, len(module)):
        candidate = ".".join([*module[:count], qualname])
        try:
            if locate(candidate) is target:
                return candidate
        except ImportError:
            continue
    return ".".join([*module, qualname])
