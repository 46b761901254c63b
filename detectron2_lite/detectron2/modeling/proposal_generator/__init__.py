"""Region proposals."""

from detectron2 import absent_attributes

from .build import PROPOSAL_GENERATOR_REGISTRY, RPN_HEAD_REGISTRY
from .rpn import RPN, StandardRPNHead

__all__ = ["PROPOSAL_GENERATOR_REGISTRY", "RPN", "RPN_HEAD_REGISTRY", "StandardRPNHead"]

__getattr__ = absent_attributes(__name__)
