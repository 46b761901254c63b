"""Types and ranges of a config's plain values, and which of them are paths."""

import difflib
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from omegaconf import DictConfig, ListConfig, Node, OmegaConf

from hiera_det.modeling.variants import VARIANTS

__all__ = ["MOVED", "PATHS", "check_values", "expand_home", "find_node", "raw_value"]

# Files and folders: text as it stands, "~" is the home folder, absolute in saved configs.
PATHS = (
    "train.output_dir",
    "train.init_checkpoint",
    "dataloader.train_json",
    "dataloader.train_images",
    "dataloader.val_json",
    "dataloader.val_images",
    "dataloader.train.dataset.root",
    "dataloader.test.dataset.root",
)
# Keys of older versions. A config may still have them as "${new key}", for a function that asks.
MOVED = {"dataloader.train.images_per_process": "train.images_per_process"}


class Rule(NamedTuple):
    """What a value has to be: one of `types` for which `holds`, and that in words."""

    types: tuple[type, ...]
    words: str
    holds: Callable[[Any], bool] = lambda value: True

    def accepts(self, value: Any) -> bool:
        if isinstance(value, bool):  # which is an int to Python
            return bool in self.types
        is_finite = not isinstance(value, float) or math.isfinite(value)
        return isinstance(value, self.types) and is_finite and self.holds(value)


NONE = type(None)
_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
_OF_TYPE = {
    bool: Rule((bool,), _WORDS[bool]),
    int: Rule((int,), _WORDS[int]),
    float: Rule((int, float), _WORDS[float]),
    str: Rule((str,), _WORDS[str]),
}
AT_LEAST_0 = Rule((int,), "a whole number of at least 0", lambda v: v >= 0)
AT_LEAST_1 = Rule((int,), "a whole number of at least 1", lambda v: v >= 1)
NOT_NEGATIVE = Rule((int, float), "a number of at least 0", lambda v: v >= 0)
POSITIVE = Rule((int, float), "a number above 0", lambda v: v > 0)


def _one_of(*values: str) -> Rule:
    return Rule((str,), f"one of {', '.join(values)}", lambda v: v in values)


def _or_null(rule: Rule) -> Rule:
    return Rule((*rule.types, NONE), f"{rule.words}, or null", lambda v: v is None or rule.holds(v))


VARIANT = Rule((str,), f"one of {', '.join(VARIANTS)}", lambda v: v in VARIANTS)
# All other keys of `train` have the type of their value in configs/common/train.py.
RULES = {
    "train.output_dir": Rule((str,), "text, the folder of the run", bool),
    "train.max_iter": AT_LEAST_1,
    "train.epochs": POSITIVE,
    "train.epoch_images": AT_LEAST_1,
    "train.warmup_epochs": NOT_NEGATIVE,
    "train.eval_epochs": NOT_NEGATIVE,
    "train.picture_epochs": NOT_NEGATIVE,
    "train.amp.precision": _one_of("bf16", "fp16"),
    "train.eval_precision": _or_null(_one_of("bf16", "fp16")),
    "train.float32_precision": _one_of("highest", "high", "medium"),
    "train.checkpointer.period": AT_LEAST_1,
    "train.checkpointer.max_to_keep": _or_null(AT_LEAST_1),
    "train.eval_period": AT_LEAST_0,
    "train.log_period": AT_LEAST_1,
    "train.clip_grad_norm": NOT_NEGATIVE,
    "train.num_pictures": AT_LEAST_0,
    "train.images_per_process": _or_null(AT_LEAST_1),
    "train.ema.decay": Rule((int, float), "a number between 0 and 1", lambda v: 0 < v < 1),
    "train.early_stop.patience": AT_LEAST_0,
    "train.lr_scaling.rule": _one_of("none", "linear", "sqrt"),
    "train.lr_scaling.base_batch_size": AT_LEAST_1,
    "train.lr_scaling.base_lr": _or_null(NOT_NEGATIVE),
    "dataloader.image_size": AT_LEAST_1,
    "dataloader.train.total_batch_size": AT_LEAST_1,
    "dataloader.train.num_workers": AT_LEAST_0,
    "dataloader.test.num_workers": AT_LEAST_0,
    "dataloader.test.batch_size": AT_LEAST_1,
    "optimizer.lr": NOT_NEGATIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.betas": Rule((ListConfig,), "two numbers, as [0.9,0.999]", lambda v: len(v) == 2),
    "model.variant": VARIANT,
    "model.backbone.bottom_up.trunk.variant": VARIANT,
    "model.backbone.net.trunk.variant": VARIANT,
}


def check_values(cfg: DictConfig, defaults: DictConfig) -> None:
    """Types and ranges of plain values, before anything is built from them.

    Interpolations and values that are still missing ("???") are left to whoever reads them. A float
    that is a whole number becomes one where one is wanted: `train.max_iter=1e4`.

    Args:
        cfg: a training config.
        defaults: `train` of configs/common/train.py, whose values say the types.

    Raises:
        ValueError: names key, value and what it has to be.
    """
    rules = {
        key: _OF_TYPE[type(v)] for key, v in _leaves(defaults, "train.") if type(v) in _OF_TYPE
    }
    for key, rule in (rules | RULES).items():
        node = find_node(cfg, key)
        if node is None or node._is_interpolation() or node._is_missing():
            continue
        value = raw_value(cfg, key)
        if isinstance(value, float) and float not in rule.types and value.is_integer():
            value = int(value)
            OmegaConf.update(cfg, key, value)
        if not rule.accepts(value):
            raise ValueError(f"{key}={_shown(value)} must be {rule.words}{_hint(value, rule)}")


def _shown(value: Any) -> Any:
    return "null" if value is None else repr(value) if value == "" else value


def _hint(value: Any, rule: Rule) -> str:
    if rule is VARIANT and isinstance(value, str):
        near = difflib.get_close_matches(value, VARIANTS, n=1)
        return f"; did you mean {near[0]}?" if near else ""
    return ""


def _leaves(cfg: DictConfig, prefix: str) -> Iterator[tuple[str, Any]]:
    content: Any = OmegaConf.to_container(cfg, resolve=False)
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(OmegaConf.create(value), f"{prefix}{key}.")
        elif not (isinstance(value, str) and "${" in value):
            yield f"{prefix}{key}", value


def expand_home(cfg: DictConfig) -> None:
    """Replaces "~" at the beginning of paths by the home folder."""
    for key in PATHS:
        value = raw_value(cfg, key)
        if isinstance(value, str) and value.startswith("~"):
            OmegaConf.update(cfg, key, os.path.expanduser(value))


def find_node(cfg: Any, key: str) -> Node | None:
    """The node of a dotted key, or None; no interpolation is resolved."""
    node = cfg
    for part in key.split("."):
        is_plain = OmegaConf.is_config(node) and not node._is_interpolation()
        if is_plain and isinstance(node, DictConfig) and part in node.keys():
            node = node._get_node(part)
        elif is_plain and isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node._get_node(int(part))
        else:
            return None
    return node


def raw_value(cfg: Any, key: str) -> Any:
    """The value of a dotted key, as the text that it is where it is an interpolation, or None."""
    node = find_node(cfg, key)
    return node if node is None or OmegaConf.is_config(node) else node._value()
