"""Overrides: "path.key=value" on the command line, with errors that name the nearest key."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf

from .values import MOVED, PATHS, find_node, raw_value

__all__ = ["apply_overrides", "override_keys"]

# Values that begin so are Hydra's: lists, dicts, quoted text, interpolations.
GRAMMAR = ("[", "{", "'", '"', "$")


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """`LazyConfig.apply_overrides` for keys that exist; a new key needs a leading "+".

    Detectron2 adds an unknown key in silence, so that a typing error trains with the old value.
    Values are in Hydra's grammar; one that is not (spaces, "~", "ü", "=", "?") is plain text, and
    so is any value of a path or name that is text already ("007", "a,b").

    Raises:
        ValueError: no "key=value", an unknown or moved key; names the nearest.
    """
    for text in overrides:
        if text.startswith("--"):
            raise ValueError(f"{text} stands behind an override: options go before all key=value")
        key, value, is_new, is_text = _parse(cfg, text)
        if key in MOVED:
            raise ValueError(f"override {text!r}: {key} is now {MOVED[key]}; set that")
        if not is_new and find_node(cfg, key) is None:
            near = _nearest(cfg, key)
            raise ValueError(
                f"override {text!r}: the config has no key {key!r}; "
                f"nearest: {', '.join(near)}. To add a new key write +{text}"
            )
        try:
            if is_text:
                OmegaConf.update(cfg, key, value, force_add=is_new)
            else:
                cfg = LazyConfig.apply_overrides(cfg, [text])
        except (KeyError, NotImplementedError, ValueError) as error:
            raise ValueError(f"override {text!r} cannot be applied: {error}") from error
    return cfg


def override_keys(overrides: Sequence[str]) -> list[str]:
    """The dotted keys of "path.key=value" texts."""
    return [text.partition("=")[0].lstrip("+~") for text in overrides]


def _parse(cfg: DictConfig, text: str) -> tuple[str, Any, bool, bool]:
    """(key, value, whether a "+" adds it, whether the value is text as it stands)."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    plain = re.fullmatch(r"(\+{0,2})([A-Za-z_][\w.]*)=(.*)", text, flags=re.DOTALL)
    try:
        override = OverridesParser.create().parse_override(text)
        value = override.value()
    except Exception as error:  # hydra's own exception type wraps antlr's message
        if plain is None or plain[3].startswith(GRAMMAR) or _holds_other(cfg, plain[2]):
            raise ValueError(
                f"override {text!r} is not key=value in Hydra's grammar ({error}). A list is "
                "key=[1,2]; text that begins with a bracket or a quote is quoted twice: "
                "\"train.output_dir='[a] b'\""
            ) from error
        return plain[2], plain[3], bool(plain[1]), True
    key, is_new = override.key_or_group, override.is_add() or override.is_force_add()
    if plain and not isinstance(value, str | None | dict | list) and _holds_text(cfg, key):
        return key, plain[3], is_new, True
    if override.is_sweep_override():
        values = text.partition("=")[2]
        raise ValueError(f"override {text!r} is several values; a list is {key}=[{values}]")
    return key, value, is_new, False


def _holds_text(cfg: DictConfig, key: str) -> bool:
    """Whether the key is a path, or a key of the run whose value is text."""
    is_text = key.startswith("train.") and isinstance(raw_value(cfg, key), str)
    return key in PATHS or (is_text and "${" not in raw_value(cfg, key))


def _holds_other(cfg: DictConfig, key: str) -> bool:
    """Whether the key has a number, a list or a dict, which no text can replace."""
    node = find_node(cfg, key)
    if key in PATHS:  # a folder may stand in place of a call that makes one
        return False
    is_empty = node is None or node._is_none() or node._is_missing() or node._is_interpolation()
    return not is_empty and not isinstance(raw_value(cfg, key), str)


def _nearest(cfg: DictConfig, key: str) -> list[str]:
    """The existing keys most like `key`: by the last part first, then by the whole."""
    keys = list(_keys(OmegaConf.to_container(cfg, resolve=False), ""))
    leaf = key.rsplit(".", 1)[-1]
    by_leaf = difflib.get_close_matches(leaf, {k.rsplit(".", 1)[-1] for k in keys}, n=3, cutoff=0.7)
    candidates = [k for k in keys if k.rsplit(".", 1)[-1] in by_leaf] or keys
    return difflib.get_close_matches(key, candidates, n=3, cutoff=0.0)


def _keys(node: Any, prefix: str) -> Iterator[str]:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        if key == "_target_":
            continue
        yield f"{prefix}{key}"
        if isinstance(value, dict | list):
            yield from _keys(value, f"{prefix}{key}.")
