"""From the description of a call to its result."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import DictConfig, ListConfig, OmegaConf

__all__ = ["instantiate"]


def instantiate(cfg: Any) -> Any:
    """Call what ``cfg`` describes, arguments first.

    Args:
        cfg: a mapping with ``_target_`` (a callable or its dotted path), whose other entries are
            keyword arguments; or a list of such. Anything else comes back as it is, a mapping
            without ``_target_`` too.

    Returns:
        The result of the call. A config list becomes a ``ListConfig`` of results, also where it
        is an argument: what accepts a list has to accept that.

    Raises:
        ImportError: nothing is at the path ``_target_``.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(item) for item in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        return [instantiate(item) for item in cfg]
    if isinstance(cfg, DictConfig) and dataclasses.is_dataclass(cfg._metadata.object_type):
        return OmegaConf.to_object(cfg)
    if not (isinstance(cfg, Mapping) and "_target_" in cfg):
        return cfg

    kwargs = {key: instantiate(value) for key, value in cfg.items()}
    target = kwargs.pop("_target_")
    name = target
    if isinstance(target, str):
        target = locate(target)
    elif callable(target):
        name = _convert_target_to_string(target) if hasattr(target, "__qualname__") else target
    assert callable(target), f"_target_ {name!r} is not callable"
    try:
        return target(**kwargs)
    except TypeError:
        logging.getLogger(__name__).error("instantiate: %s failed on %s", name, sorted(kwargs))
        raise
