"""A convolution with its norm."""

from collections.abc import Callable

from torch import Tensor, nn

from .batch_norm import get_norm
from .wrappers import Conv2d

__all__ = ["same_size_conv"]


def same_size_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: str | Callable[[int], nn.Module],
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Conv2d:
    """A convolution of stride 1 that keeps height and width; with a norm it has no bias."""
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=activation,
    )
