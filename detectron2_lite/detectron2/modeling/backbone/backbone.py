"""What a backbone offers to the rest of a detector."""

from abc import ABCMeta, abstractmethod

from detectron2.layers import ShapeSpec
from torch import Tensor, nn

__all__ = ["Backbone"]


class Backbone(nn.Module, metaclass=ABCMeta):
    """Base class: an image batch in, named feature maps out.

    Subclasses set ``_out_features`` (names), ``_out_feature_channels`` and
    ``_out_feature_strides`` (by name), or override ``output_shape``.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps (N, C_i, H / stride_i, W / stride_i) by name, of images (N, 3, H, W)."""

    @property
    def size_divisibility(self) -> int:
        """H and W of the input are to be multiples of this; 0 for any size."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further wishes: "size_divisibility", and "square_size" > 0 for that height and width."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature map."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name],
                stride=self._out_feature_strides[name],
            )
            for name in self._out_features
        }
