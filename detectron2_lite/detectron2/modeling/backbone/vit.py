"""The parts of ViTDet, https://arxiv.org/abs/2203.16527, that suit any backbone.

The ViT itself is not in detectron2_lite; install Detectron2.
"""

from collections.abc import Callable, Sequence

from detectron2.layers import get_norm
from detectron2.layers.blocks import same_size_conv
from torch import Tensor, nn

from .backbone import Backbone
from .fpn import level_strides, pyramid_stages

__all__ = ["SimpleFeaturePyramid"]


class SimpleFeaturePyramid(Backbone):
    """A pyramid out of one map: each level is that map up- or downsampled, and two convolutions.

    Outputs are called p{log2(stride)}.

    Args:
        net: backbone.
        in_feature: name of its map.
        out_channels: of every output.
        scale_factors: falling sizes of the levels relative to the map, out of 4.0, 2.0, 1.0, 0.5.
        top_block: as in ``FPN``.
        norm: as in ``FPN``.
        square_pad: as in ``FPN``. With 0 images are not padded at all, since Detectron2 misspells
            the key of its padding constraint; so give the size.
    """

    def __init__(
        self,
        net: Backbone,
        in_feature: str,
        out_channels: int,
        scale_factors: Sequence[float],
        top_block: nn.Module | None = None,
        norm: str | Callable[[int], nn.Module] = "LN",
        square_pad: int = 0,
    ):
        super().__init__()
        input_shapes = net.output_shape()
        if in_feature not in input_shapes:
            raise ValueError(f"in_feature={in_feature!r}: the backbone gives {list(input_shapes)}")
        shape = input_shapes[in_feature]
        strides = [int(shape.stride / scale) for scale in scale_factors]
        self._stages = pyramid_stages(strides)
        for scale, stage in zip(scale_factors, self._stages, strict=True):
            level, channels = _resample(scale, shape.channels, norm)
            level.append(same_size_conv(channels, out_channels, 1, norm))
            level.append(same_size_conv(out_channels, out_channels, 3, norm))
            self.add_module(f"simfp_{stage}", nn.Sequential(*level))
        self.net = net
        self.in_feature = in_feature
        self.top_block = top_block

        self._out_feature_strides = level_strides(self._stages, top_block)
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = strides[-1]
        self._square_pad = square_pad

    @property
    def padding_constraints(self) -> dict[str, int]:
        # "size_divisiblity" is Detectron2's spelling, which nobody reads. Spelt rightly it would
        # change what trained models see.
        return {"size_divisiblity": self._size_divisibility, "square_size": self._square_pad}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps (N, out_channels, H / stride, W / stride) by name, of images (N, 3, H, W)."""
        features = self.net(x)
        results = {
            f"p{stage}": getattr(self, f"simfp_{stage}")(features[self.in_feature])
            for stage in self._stages
        }
        if self.top_block is not None:
            source = self.top_block.in_feature
            top = self.top_block(features[source] if source in features else results[source])
            results.update(zip(self._out_features[len(self._stages) :], top, strict=True))
        return results


def _resample(
    scale: float, dim: int, norm: str | Callable[[int], nn.Module]
) -> tuple[list[nn.Module], int]:
    """Layers that resize a map of ``dim`` channels by ``scale``, and their output channels."""
    if scale == 4.0:
        half, quarter = dim // 2, dim // 4
        layers = [
            nn.ConvTranspose2d(dim, half, kernel_size=2, stride=2),
            get_norm(norm, half) or nn.Identity(),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, kernel_size=2, stride=2),
        ]
        return layers, quarter
    if scale == 2.0:
        return [nn.ConvTranspose2d(dim, dim // 2, kernel_size=2, stride=2)], dim // 2
    if scale == 1.0:
        return [], dim
    if scale == 0.5:
        return [nn.MaxPool2d(kernel_size=2, stride=2)], dim
    raise NotImplementedError(f"scale factor {scale}: SimpleFeaturePyramid has 4.0, 2.0, 1.0, 0.5")
