"""Finding, loading and overriding LazyConfigs, with errors that name the nearest valid choice."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

import hiera_det.solver  # noqa: F401  registers the resolvers that the configs use

__all__ = ["apply_overrides", "config_root", "find_config", "load_config"]

CONFIG_KEYS = ("model", "dataloader", "train", "optimizer", "lr_multiplier")


def config_root() -> Path:
    """The folder of the configs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def load_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Loads a LazyConfig (.py) or a saved config (.yaml), and applies overrides.

    Args:
        name: a path, or the name of a config that ships with the package, with or without the
            leading "configs/": "COCO/mask_rcnn_hiera_b.py".
        overrides: "path.key=value" in Hydra's grammar; "+path.key=value" adds a key.

    Raises:
        FileNotFoundError: neither a file nor a packaged config; names the nearest.
        ValueError: not a training config, or a bad override; names the nearest key.
    """
    path = find_config(name)
    cfg = LazyConfig.load(str(path))
    missing = [key for key in CONFIG_KEYS if key not in cfg]
    if missing:
        raise ValueError(f"{path} defines no {', '.join(missing)}: it is no training config")
    return apply_overrides(cfg, overrides)


def find_config(name: str) -> Path:
    """The file of a config, given by path or by the name of one that ships with the package.

    Raises:
        FileNotFoundError: neither; names the nearest.
    """
    path = Path(name)
    if not path.is_file():
        packaged = [name.removeprefix("configs/"), name.removeprefix("configs/") + ".py"]
        path = next((p for n in packaged if (p := config_root() / n).is_file()), path)
    if not path.is_file():
        leaves = sorted(
            str(p.relative_to(config_root()))
            for p in config_root().rglob("*.py")
            if "common" not in p.parts
        )
        near = difflib.get_close_matches(name.removeprefix("configs/"), leaves, n=3, cutoff=0.4)
        beside = {p.name: str(p) for p in path.parent.glob("*.py")}
        same_folder = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.4)
        near = [beside[n] for n in same_folder] or near
        raise FileNotFoundError(
            f"no config file {name!r}; did you mean {' or '.join(near) if near else leaves}?"
        )
    return path


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """`LazyConfig.apply_overrides` for keys that exist; a new key needs a leading "+".

    Detectron2 adds an unknown key in silence, so that a typing error trains with the old value.

    Raises:
        ValueError: no "key=value", or an unknown key; names the nearest.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    for text in overrides:
        if text.startswith("--"):
            raise ValueError(f"{text} stands behind an override: options go before all key=value")
        try:
            override = parser.parse_override(text)
        except Exception as error:  # hydra's own exception type wraps antlr's message
            raise ValueError(
                f"override {text!r} is not key=value; a value with '?', '=' or spaces is quoted "
                f"twice: \"train.init_checkpoint='a b.pth'\" ({error})"
            ) from error
        if not override.is_add() and not _has(cfg, override.key_or_group):
            near = _nearest(cfg, override.key_or_group)
            raise ValueError(
                f"override {text!r}: the config has no key {override.key_or_group!r}; "
                f"nearest: {', '.join(near)}. To add a new key write +{text}"
            )
        try:
            cfg = LazyConfig.apply_overrides(cfg, [text])
        except (KeyError, NotImplementedError) as error:
            raise ValueError(f"override {text!r} cannot be applied: {error}") from error
    return cfg


def _has(cfg: Any, key: str) -> bool:
    """Whether the dotted key exists, without resolving interpolations."""
    node = cfg
    for part in key.split("."):
        if isinstance(node, DictConfig) and part in node.keys():
            node = node._get_node(part)
        elif isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node._get_node(int(part))
        else:
            return False
    return True


def _nearest(cfg: DictConfig, key: str) -> list[str]:
    """The existing keys most like `key`: by the last part first, then by the whole."""
    keys = list(_keys(OmegaConf.to_container(cfg, resolve=False), ""))
    leaf = key.rsplit(".", 1)[-1]
    by_leaf = difflib.get_close_matches(leaf, {k.rsplit(".", 1)[-1] for k in keys}, n=3, cutoff=0.7)
    candidates = [k for k in keys if k.rsplit(".", 1)[-1] in by_leaf] or keys
    return difflib.get_close_matches(key, candidates, n=3, cutoff=0.0)


def _keys(node: Any, prefix: str):
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        if key == "_target_":
            continue
        yield f"{prefix}{key}"
        if isinstance(value, dict | list):
            yield from _keys(value, f"{prefix}{key}.")


def save_config(cfg, path):
    LazyConfig.save(cfg, str(path))
