"""Feature pyramid network, https://arxiv.org/abs/1612.03144."""

import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from detectron2.layers.blocks import same_size_conv
from detectron2.layers.weight_init import c2_xavier_fill
from torch import Tensor, nn

from .backbone import Backbone

__all__ = ["FPN", "LastLevelMaxPool", "level_strides", "pyramid_stages"]


class LastLevelMaxPool(nn.Module):
    """Gives p6 as every second pixel of p5."""

    num_levels = 1
    in_feature = "p5"

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.max_pool2d(x, kernel_size=1, stride=2)]


def pyramid_stages(strides: Sequence[int]) -> list[int]:
    """log2 of the strides of a pyramid. ValueError unless each is twice the one before."""
    stages = [int(math.log2(stride)) for stride in strides]
    if not stages or list(strides) != [2 ** (stages[0] + i) for i in range(len(stages))]:
        raise ValueError(f"strides {list(strides)} are not powers of 2, each twice the one before")
    return stages


def level_strides(stages: Sequence[int], top_block: nn.Module | None) -> dict[str, int]:
    """Strides of a pyramid by name, p{log2(stride)}, with the levels that a top block adds."""
    num_added = 0 if top_block is None else top_block.num_levels
    added = range(stages[-1] + 1, stages[-1] + 1 + num_added)
    return {f"p{stage}": 2**stage for stage in (*stages, *added)}


class FPN(Backbone):
    """Adds a top-down path to a backbone.

    The map of each level is a 1x1 convolution of the bottom-up map plus the level above, doubled in
    size; a 3x3 convolution of it is the output. Outputs are called p{log2(stride)}.

    Args:
        bottom_up: backbone.
        in_features: names of its maps to use, from fine to coarse, strides doubling.
        out_channels: of every output.
        norm: of all convolutions, see ``get_norm``; with one they have no bias.
        top_block: makes ``top_block.num_levels`` coarser levels out of the map
            ``top_block.in_feature``, of this pyramid or of ``bottom_up``.
        fuse_type: "sum", or "avg" for the mean of the two paths.
        square_pad: pad images to this height and width; 0 to pad to the largest of the batch.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str | Callable[[int], nn.Module] = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
    ):
        super().__init__()
        if fuse_type not in ("sum", "avg"):
            raise ValueError(f"fuse_type={fuse_type!r}: use 'sum' or 'avg'")
        input_shapes = bottom_up.output_shape()
        missing = [name for name in in_features if name not in input_shapes]
        if missing or len(in_features) == 0:
            raise ValueError(
                f"in_features={list(in_features)}: the backbone gives {list(input_shapes)}"
            )
        strides = [input_shapes[name].stride for name in in_features]
        self._stages = pyramid_stages(strides)
        for name, stage in zip(in_features, self._stages, strict=True):
            lateral = same_size_conv(input_shapes[name].channels, out_channels, 1, norm)
            output = same_size_conv(out_channels, out_channels, 3, norm)
            c2_xavier_fill(lateral)
            c2_xavier_fill(output)
            self.add_module(f"fpn_lateral{stage}", lateral)
            self.add_module(f"fpn_output{stage}", output)
        self.top_block = top_block
        self.in_features = tuple(in_features)
        self.bottom_up = bottom_up

        self._out_feature_strides = level_strides(self._stages, top_block)
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = strides[-1]
        self._square_pad = square_pad
        self._fuse_type = fuse_type

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"square_size": self._square_pad}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps (N, out_channels, H / stride, W / stride) by name, of images (N, 3, H, W)."""
        bottom_up = self.bottom_up(x)
        results = {}
        merged = None
        for name, stage in zip(reversed(self.in_features), reversed(self._stages), strict=True):
            lateral = getattr(self, f"fpn_lateral{stage}")(bottom_up[name])
            if merged is None:
                merged = lateral
            else:
                merged = lateral + F.interpolate(merged, scale_factor=2.0, mode="nearest")
                if self._fuse_type == "avg":
                    merged = merged / 2
            results[f"p{stage}"] = getattr(self, f"fpn_output{stage}")(merged)
        if self.top_block is not None:
            source = self.top_block.in_feature
            top = self.top_block(bottom_up[source] if source in bottom_up else results[source])
            results.update(zip(self._out_features[len(self._stages) :], top, strict=True))
        return {name: results[name] for name in self._out_features}
