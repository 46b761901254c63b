"""Configs that travel in a file of weights: data, from which nothing but a detector can be made.

A LazyConfig names what it calls, so whoever writes one can have any function called. Here every
`_target_` is looked up in a short table, by its last name, and the name in the table takes its
place: no other is ever imported. YAML is read by a safe loader, and resolvers that read files or
the environment are refused.
"""

import re
from typing import Any

import yaml
from detectron2.layers import ShapeSpec
from omegaconf import DictConfig, OmegaConf, SCMode
from omegaconf.errors import (
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from .resolvers import FORMULAS, ON_DEMAND

__all__ = ["load_safe_config"]

# What a model and the mapper of its test images are made of: by package, module and name.
ALLOWED: dict[str, dict[str, tuple[str, ...]]] = {
    "hiera_det": {
        "hiera_det.data.mapper": ("DatasetMapper",),
        "hiera_det.modeling.backbone": ("HieraBackbone",),
        "hiera_det.modeling.poolers": ("Float32ROIPooler",),
        "hiera_det.modeling.variants": ("build_detection_hiera",),
    },
    "detectron2": {
        "detectron2.data": ("DatasetMapper",),
        "detectron2.data.transforms": (
            "FixedSizeCrop",
            "RandomFlip",
            "Resize",
            "ResizeScale",
            "ResizeShortestEdge",
        ),
        "detectron2.layers": ("ShapeSpec",),
        "detectron2.modeling": ("FPN", "GeneralizedRCNN", "SimpleFeaturePyramid"),
        "detectron2.modeling.anchor_generator": ("DefaultAnchorGenerator",),
        "detectron2.modeling.backbone.fpn": ("LastLevelMaxPool",),
        "detectron2.modeling.box_regression": ("Box2BoxTransform",),
        "detectron2.modeling.matcher": ("Matcher",),
        "detectron2.modeling.poolers": ("ROIPooler",),
        "detectron2.modeling.proposal_generator": ("RPN", "StandardRPNHead"),
        "detectron2.modeling.roi_heads": (
            "CascadeROIHeads",
            "FastRCNNConvFCHead",
            "FastRCNNOutputLayers",
            "MaskRCNNConvUpsampleHead",
            "StandardROIHeads",
        ),
    },
    "torch": {
        "torch.nn": ("BatchNorm2d", "GELU", "GroupNorm", "Identity", "LayerNorm", "ReLU", "SiLU"),
    },
}
# Beside `model` and `dataloader.test.mapper`, what of a config prediction asks for.
KEPT = (
    "dataloader.class_names",
    "dataloader.image_size",
    "dataloader.intensity_range",
    "dataloader.page",
    "dataloader.test.dataset.names",
    "train.eval_precision",
)
SHAPE_TAG = "tag:yaml.org,2002:python/object:detectron2.layers.shape_spec.ShapeSpec"
ADVICE = (
    "nothing of it was run. If you trust its author, get the config as a file of its own and name "
    'both: Predictor("config.yaml", "weights.pth"), or --config-file'
)


def load_safe_config(text: str, where: str) -> DictConfig:
    """The part of a saved config that makes a detector, from text that nobody vouches for.

    Args:
        text: YAML as `save_config` writes it.
        where: the file that it comes from, for errors.

    Returns:
        `model`, `dataloader.test.mapper` and a few plain values, without interpolations; every
        `_target_` is a name of `ALLOWED`.

    Raises:
        ValueError: no YAML of a detector; or it names what a detector is not made of, or asks for
            files or the environment. Nothing was called.
    """
    try:
        content = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where}: its config is refused: {reason}; {ADVICE}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where}: its config holds no keys and values")
    try:
        cfg = OmegaConf.create(_checked_texts(content, where), flags={"allow_objects": True})
        parts = {key: _resolved(cfg, key) for key in ("model", "dataloader.test.mapper")}
        values = {key: _value(cfg, key) for key in KEPT}
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{where}: its config cannot be read: {reason}") from error
    absent = [key for key, value in parts.items() if not isinstance(value, dict)]
    if absent:
        raise ValueError(f"{where}: its config has no {', '.join(absent)}: it is of no detector")
    safe = OmegaConf.create({}, flags={"allow_objects": True})
    for key, value in (values | parts).items():
        value = _looked_up(value, where, key)
        OmegaConf.update(safe, key, value, merge=False, force_add=True)
    return safe


# ------------------------------------------------------------------------------------ YAML
class _Loader(yaml.SafeLoader):
    """PyYAML's SafeLoader, which also knows the one Python object that saved configs hold."""


def _shape_spec(loader: yaml.SafeLoader, node: yaml.MappingNode) -> ShapeSpec:
    values = loader.construct_mapping(node)
    known = {"channels", "height", "width", "stride"}
    if not set(values) <= known or not all(v is None or type(v) is int for v in values.values()):
        raise yaml.constructor.ConstructorError(
            None, None, f"a ShapeSpec of {values}, not of whole numbers", node.start_mark
        )
    return ShapeSpec(**values)


_Loader.add_constructor(SHAPE_TAG, _shape_spec)


# ------------------------------------------------------------------------------------ values
def _checked_texts(node: Any, where: str) -> Any:
    """A copy of nested dicts and lists in which interpolations ask for other keys alone.

    What opens a dataset on demand becomes "???": a config may hold it, and nothing here asks.
    """
    if isinstance(node, dict):
        return {key: _checked_texts(value, where) for key, value in node.items()}
    if isinstance(node, list):
        return [_checked_texts(value, where) for value in node]
    if not isinstance(node, str) or _is_harmless(node):
        return node
    if re.match(rf"\$\{{({'|'.join(ON_DEMAND)}):", node):
        return "???"
    raise ValueError(
        f"{where}: its config asks for {node!r}, which could read files or the environment of this "
        f"machine; {ADVICE}"
    )


def _is_harmless(text: str) -> bool:
    """Whether nothing is left of a text's interpolations once keys and formulas are taken out."""
    innermost = rf"\$\{{(?:[\w.\[\]]*|(?:{'|'.join(FORMULAS)}):[^${{}}]*)\}}"
    while (shorter := re.sub(innermost, "0", text)) != text:
        text = shorter
    return "${" not in text


def _resolved(cfg: DictConfig, key: str) -> Any:
    """The value of a dotted key as plain containers; None where there is no such key."""
    value = OmegaConf.select(cfg, key, throw_on_missing=True)
    if not OmegaConf.is_config(value):
        return value
    return OmegaConf.to_container(
        value, resolve=True, throw_on_missing=True, structured_config_mode=SCMode.INSTANTIATE
    )


def _value(cfg: DictConfig, key: str) -> Any:
    """The same of a value that may be missing ("???"), then None."""
    try:
        return _resolved(cfg, key)
    except (MissingMandatoryValue, InterpolationToMissingValueError):
        return None


# ------------------------------------------------------------------------------------ targets
def _looked_up(node: Any, where: str, key: str) -> Any:
    """A copy of nested dicts and lists with names of the table under every `_target_`."""
    if isinstance(node, list):
        return [_looked_up(value, where, f"{key}.{k}") for k, value in enumerate(node)]
    if isinstance(node, dict):
        content = {name: _looked_up(value, where, f"{key}.{name}") for name, value in node.items()}
        if "_target_" in node:
            content["_target_"] = _name(node["_target_"], where, key)
        return content
    if isinstance(node, str) and "${" in node:  # put together from harmless pieces
        raise ValueError(f"{where}: {key} of its config becomes {node!r}; {ADVICE}")
    return node


def _name(target: Any, where: str, key: str) -> str:
    """The dotted path in the table that has the package and the last name of another.

    The modules between them differ from one Detectron2 to the other, and are not looked at.
    """
    package, _, rest = target.partition(".") if isinstance(target, str) else ("", "", "")
    name = rest.rpartition(".")[2]
    for module, names in ALLOWED.get(package, {}).items():
        if name in names:
            return f"{module}.{name}"
    raise ValueError(
        f"{where}: {key} of its config is made by {target!r}, which is none of the parts of a "
        f"detector that a file of weights may name; {ADVICE}"
    )
