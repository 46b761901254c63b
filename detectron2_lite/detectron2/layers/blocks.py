"""What networks are built of: a convolution with its norm, and a base class of blocks."""

from collections.abc import Callable

from torch import Tensor, nn

from .batch_norm import FrozenBatchNorm2d, get_norm
from .wrappers import Conv2d

__all__ = ["CNNBlockBase", "same_size_conv"]


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


class CNNBlockBase(nn.Module):
    """A block of a CNN that says its input channels, output channels and stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self) -> "CNNBlockBase":
        """Stop the training of all parameters and freeze the batch norms. Returns the block."""
        for parameter in self.parameters():
            parameter.requires_grad = False
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self
