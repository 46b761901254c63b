"""Loading of a config from its file: completed, overridden and checked."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf

from .find import config_root, config_roots, find_config
from .overrides import apply_overrides, override_keys
from .recipe import apply_recipe, recipe
from .values import MOVED, check_values, expand_home, find_node, raw_value

__all__ = ["load_config"]

CONFIG_KEYS = ("model", "dataloader", "train", "optimizer", "lr_multiplier")


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Loads a LazyConfig (.py) or a saved config (.yaml), and applies overrides.

    Keys of a run that the file does not have (a config of Detectron2, or saved by an older version)
    get the values of configs/common/train.py.

    Args:
        name: a path or the name of a config that ships, as `find_config` takes it. A part, such as
            "common/train.py", is loaded as it stands.
        overrides: "path.key=value", as `apply_overrides` takes them.

    Raises:
        FileNotFoundError: neither a file nor a config that ships; names the nearest.
        ValueError: no training config, a bad override, or a value of the wrong type or range; names
            the key.
    """
    import hiera_det.data  # noqa: F401  registers the datasets that ship

    path = find_config(name)
    cfg = _read(path)
    if _is_part(path):
        return cfg
    missing = [key for key in CONFIG_KEYS if key not in cfg]
    if missing:
        raise ValueError(f"{path} defines no {', '.join(missing)}: it is no training config")
    _complete(cfg)
    cfg = _with_recipe(cfg, overrides)
    cfg = apply_overrides(cfg, overrides)
    expand_home(cfg)
    check_values(cfg, run_defaults())
    return cfg


def _with_recipe(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A config with the values of its recipe (configs/custom/auto.py), if it has one that is to be
    applied and names its training data; another as it is. Overrides are looked at, not applied."""
    if not OmegaConf.select(cfg, "recipe.from_data"):
        return cfg
    asked = apply_overrides(copy.deepcopy(cfg), overrides)
    expand_home(asked)
    if not asked.recipe.from_data or OmegaConf.is_missing(asked.dataloader, "train_json"):
        return cfg
    import torch  # here, so that other configs load without it

    from hiera_det.data.statistics import measure

    given = {key: OmegaConf.select(asked, key) for key in override_keys(overrides)}
    is_gpu = str(asked.train.device).startswith("cuda") and torch.cuda.is_available()
    steps = recipe(measure(asked.dataloader.train_json), "cuda" if is_gpu else "cpu", given)
    apply_recipe(cfg, steps, given)
    cfg.train.lr_scaling.base_lr = raw_value(cfg, "optimizer.lr")
    return cfg


def _read(path: Path) -> DictConfig:
    """`LazyConfig.load`, whose errors name the file.

    Raises:
        ValueError: no Python or YAML, or not of dicts.
        ImportError: it imports what is not there.
    """
    try:
        cfg = LazyConfig.load(str(path))
    except (SyntaxError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        kind = "YAML" if path.suffix in (".yaml", ".yml") else "Python"
        raise ValueError(f"config file {path} is no valid {kind}: {reason}") from error
    except AssertionError as error:  # Detectron2's, of a suffix
        raise ValueError(f"config file {path}: {error}") from error
    except ImportError as error:
        raise ImportError(f"config file {path}: {error}") from error
    if not isinstance(cfg, DictConfig):
        raise ValueError(f"config file {path} holds no keys and values")
    return cfg


def run_defaults() -> DictConfig:
    """configs/common/train.py."""
    return LazyConfig.load(str(config_root() / "common" / "train.py")).train


def _is_part(path: Path) -> bool:
    path = path.resolve()
    return any(root.resolve() / "common" in path.parents for root in config_roots().values())


def _complete(cfg: DictConfig) -> None:
    """Gives `cfg.train` the keys that it lacks, and moved keys of older files their new place."""
    for old, new in MOVED.items():
        if find_node(cfg, old) is not None:
            value = raw_value(cfg, old)
            if raw_value(cfg, new) is None and not _is_formula(value):
                OmegaConf.update(cfg, new, value, force_add=True)
            parent, key = old.rsplit(".", 1)
            node: Any = find_node(cfg, parent)
            del node[key]
    for name, value in run_defaults().items_ex(resolve=False):
        if name not in cfg.train:
            cfg.train[name] = value
    # What engine/checks.py compares the rate with that an override of rate or batch leaves.
    if cfg.train.lr_scaling.get("base_lr") is None:
        cfg.train.lr_scaling.base_lr = raw_value(cfg, "optimizer.lr")


def _is_formula(value: object) -> bool:
    return isinstance(value, str) and "${" in value
