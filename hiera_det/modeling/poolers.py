"""RoI pooling in float32, whatever the precision of the features."""

from collections.abc import Sequence

import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor

__all__ = ["Float32ROIPooler"]


class Float32ROIPooler(ROIPooler):
    """Detectron2's `ROIPooler` that computes in float32 for features of half precision.

    `ROIPooler` casts boxes to the dtype of the features, and bfloat16 has 8 bits of mantissa: an
    edge at 1001.7 px becomes 1000. It happens under autocast wherever the last layer before the
    heads is a convolution (FPN without norms). Float32 features are pooled as by the base class.
    """

    def forward(self, x: Sequence[Tensor], box_lists: Sequence[Boxes]) -> Tensor:
        """(R, C, *output_size), in the dtype of the features; see `ROIPooler`."""
        dtype = x[0].dtype
        wide = [level.to(torch.promote_types(level.dtype, torch.float32)) for level in x]
        return super().forward(wide, box_lists).to(dtype)
