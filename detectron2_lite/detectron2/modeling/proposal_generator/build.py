"""Registries of what proposes regions."""

from fvcore.common.registry import Registry

__all__ = ["PROPOSAL_GENERATOR_REGISTRY", "RPN_HEAD_REGISTRY"]

PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")
RPN_HEAD_REGISTRY = Registry("RPN_HEAD")
