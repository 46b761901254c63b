"""Features of a region for classification and box regression."""

import math
from collections.abc import Callable, Sequence

from detectron2.layers import ShapeSpec
from detectron2.layers.blocks import same_size_conv
from detectron2.layers.weight_init import c2_msra_fill, c2_xavier_fill
from torch import Tensor, nn

__all__ = ["FastRCNNConvFCHead"]


class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions, then fully connected layers, each followed by a ReLU.

    Args:
        input_shape: channels, height and width of the pooled features.
        conv_dims: output channels of the convolutions.
        fc_dims: outputs of the fully connected layers.
        conv_norm: of the convolutions, see ``get_norm``; with one they have no bias.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: Sequence[int],
        fc_dims: Sequence[int],
        conv_norm: str | Callable[[int], nn.Module] = "",
    ):
        super().__init__()
        if len(conv_dims) + len(fc_dims) == 0:
            raise ValueError("FastRCNNConvFCHead needs conv_dims or fc_dims")
        channels, size = input_shape.channels, (input_shape.height, input_shape.width)
        self.conv_norm_relus = []
        for k, dim in enumerate(conv_dims, start=1):
            conv = same_size_conv(channels, dim, 3, conv_norm, nn.ReLU())
            self.add_module(f"conv{k}", conv)
            self.conv_norm_relus.append(conv)
            channels = dim
        self.output_shape = ShapeSpec(channels=channels, height=size[0], width=size[1])

        self.fcs = []
        features = channels * math.prod(size) if fc_dims else 0
        for k, dim in enumerate(fc_dims, start=1):
            if k == 1:
                self.add_module("flatten", nn.Flatten())
            fc = nn.Linear(features, dim)
            self.add_module(f"fc{k}", fc)
            self.add_module(f"fc_relu{k}", nn.ReLU())
            self.fcs.append(fc)
            features = dim
            self.output_shape = ShapeSpec(channels=dim)

        for conv in self.conv_norm_relus:
            c2_msra_fill(conv)
        for fc in self.fcs:
            c2_xavier_fill(fc)

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, H, W) -> (R, fc_dims[-1]), or (R, conv_dims[-1], H, W) without ``fc_dims``."""
        return super().forward(x)
