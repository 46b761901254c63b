"""The config.yaml of a run: a config that loads anywhere the package is installed."""

import copy
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import LazyConfig
from detectron2.utils.registry import _convert_target_to_string
from omegaconf import DictConfig, OmegaConf, SCMode
from omegaconf.errors import InterpolationToMissingValueError

from .resolvers import FORMULAS, ON_DEMAND
from .values import PATHS, find_node, raw_value

__all__ = ["config_text", "resolved", "save_config"]


def resolved(cfg: DictConfig) -> DictConfig:
    """A copy that needs nothing but the package: no annotation file, variable or current folder.

    * What is read from files or the environment (`num_classes`, `num_images`, `oc.env`, a resolver
      of the user's own) becomes its value.
    * What follows from other keys (`${dataloader.image_size}`, `${iterations:…}`) stays as it is,
      so that an override of the saved config moves all that follows it.
    * `register_coco_json` stays: it opens the annotation file when the dataset is asked for, so the
      model can be built where the data are not.
    * Paths (`values.PATHS`) become absolute, `output_dir` too: they mean the same files from every
      folder. A run that was moved needs `train.output_dir=` and a dataset its new paths.
    * Values that are still missing ("???") stay missing, and so does what is made of them.

    Raises:
        ValueError: an interpolation cannot be resolved; names the key.
    """
    cfg = copy.deepcopy(cfg)
    for parent, key, text in list(_interpolations(cfg)):
        resolvers = set(re.findall(r"\$\{\s*([A-Za-z_][\w.]*)\s*:", text))
        if resolvers <= {*FORMULAS, *ON_DEMAND}:
            continue
        try:
            parent[key] = parent[key]
        except InterpolationToMissingValueError:
            continue
    for key in PATHS:
        value, node = raw_value(cfg, key), find_node(cfg, key)
        if node is None or not isinstance(value, str):
            continue
        if node._is_missing() or node._is_interpolation():
            continue
        if value and "://" not in value:
            OmegaConf.update(cfg, key, os.path.abspath(os.path.expanduser(value)))
    return cfg


def save_config(cfg: DictConfig, path: str | Path) -> None:
    """Writes `resolved(cfg)` as YAML for `load_config`; both Detectron2s' LazyConfig read it too.

    Without `hiera_det.config` the model can be built from it; what the resolvers of
    `config/resolvers.py` say cannot be read. (`LazyConfig.save` of the real Detectron2 evaluates
    every interpolation, so it needs the data that a config names.)
    """
    text = config_text(cfg)
    if text is None:
        LazyConfig.save(resolved(cfg), str(path))  # Detectron2 warns, and pickles it beside
    else:
        Path(path).write_text(text, encoding="utf-8")


def config_text(cfg: DictConfig) -> str | None:
    """`resolved(cfg)` as YAML; None where it holds what YAML cannot, such as a lambda."""
    content = OmegaConf.to_container(
        resolved(cfg), resolve=False, structured_config_mode=SCMode.INSTANTIATE
    )
    try:
        text = yaml.dump(
            _targets_as_paths(content), default_flow_style=None, width=1000, allow_unicode=True
        )
        yaml.unsafe_load(text)  # what `LazyConfig.load` does; raises for a lambda
    except (yaml.YAMLError, TypeError, AttributeError, ImportError):
        return None
    return text


def _targets_as_paths(content: Any) -> Any:
    """Callables under `_target_` as dotted paths, in nested dicts and lists."""
    if isinstance(content, list):
        return [_targets_as_paths(value) for value in content]
    if not isinstance(content, dict):
        return content
    return {
        key: _convert_target_to_string(value)
        if key == "_target_" and callable(value)
        else _targets_as_paths(value)
        for key, value in content.items()
    }


def _interpolations(node: Any) -> Iterator[tuple[Any, Any, str]]:
    """(parent, key, text) of every interpolation under a DictConfig or ListConfig."""
    keys = node.keys() if isinstance(node, DictConfig) else range(len(node))
    for key in list(keys):
        child = node._get_node(key)
        if child._is_interpolation():
            yield node, key, child._value()
        elif OmegaConf.is_config(child) and not child._is_none() and not child._is_missing():
            yield from _interpolations(child)
