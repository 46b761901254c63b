"""Region proposals."""

from detectron2 import absent_attributes

from .rpn import RPN, StandardRPNHead

__all__ = ["RPN", "StandardRPNHead"]

__getattr__ = absent_attributes(__name__)
