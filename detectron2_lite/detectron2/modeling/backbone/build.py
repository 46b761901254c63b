"""Backbones by name, for yacs configs."""

from typing import Any

from detectron2.layers import ShapeSpec
from fvcore.common.registry import Registry

from .backbone import Backbone

__all__ = ["BACKBONE_REGISTRY", "build_backbone"]

# Functions (cfg, input_shape: ShapeSpec) -> Backbone.
BACKBONE_REGISTRY = Registry("BACKBONE")


def build_backbone(cfg: Any, input_shape: ShapeSpec | None = None) -> Backbone:
    """Build the backbone that a yacs config names.

    Args:
        cfg: with ``MODEL.BACKBONE.NAME`` and ``MODEL.PIXEL_MEAN``.
        input_shape: of the image; by default as many channels as ``MODEL.PIXEL_MEAN`` has.

    Raises:
        ValueError: if nothing is registered under the name.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if name not in BACKBONE_REGISTRY:
        known = ", ".join(registered for registered, _ in BACKBONE_REGISTRY) or "none"
        raise ValueError(
            f"MODEL.BACKBONE.NAME={name!r} is not registered (registered: {known}). The backbones "
            "of Detectron2 are not in detectron2_lite; install Detectron2"
        )
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    return BACKBONE_REGISTRY.get(name)(cfg, input_shape)
