"""What a module says about the feature maps it takes or gives."""

from dataclasses import dataclass

__all__ = ["ShapeSpec"]


@dataclass
class ShapeSpec:
    """Channels, size and stride of a (N, C, H, W) feature map; None where unknown or variable."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
