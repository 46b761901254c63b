"""Backbones by name, for yacs configs."""

from fvcore.common.registry import Registry

__all__ = ["BACKBONE_REGISTRY"]

# Functions (cfg, input_shape: ShapeSpec) -> Backbone.
BACKBONE_REGISTRY = Registry("BACKBONE")
