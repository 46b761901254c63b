"""Region features from a feature pyramid."""

import math
from collections.abc import Sequence

import torch
from detectron2.layers import ROIAlign, nonzero_tuple
from detectron2.structures import Boxes
from torch import Tensor, nn

__all__ = ["ROIPooler", "assign_boxes_to_levels", "convert_boxes_to_pooler_format"]


def assign_boxes_to_levels(
    box_lists: Sequence[Boxes],
    min_level: int,
    max_level: int,
    canonical_box_size: int,
    canonical_level: int,
) -> Tensor:
    """Index, from 0 at ``min_level``, of the level from which each box is pooled.

    The level is floor(canonical_level + log2(sqrt(area) / canonical_box_size + 1e-8)), clamped;
    levels are log2 of strides.

    Returns:
        int64 (R,) for the R boxes of all images.
    """
    sizes = torch.sqrt(torch.cat([boxes.area() for boxes in box_lists]))
    levels = torch.floor(canonical_level + torch.log2(sizes / canonical_box_size + 1e-8))
    return levels.clamp(min_level, max_level).to(torch.int64) - min_level


def convert_boxes_to_pooler_format(box_lists: Sequence[Boxes]) -> Tensor:
    """(R, 5) rows [image index, x0, y0, x1, y1] of the boxes of all images."""
    boxes = torch.cat([b.tensor for b in box_lists])
    counts = torch.tensor([len(b) for b in box_lists], device=boxes.device)
    index = torch.arange(len(box_lists), dtype=boxes.dtype, device=boxes.device)
    index = index.repeat_interleave(counts, output_size=len(boxes))
    return torch.cat([index[:, None], boxes], dim=1)


class ROIPooler(nn.Module):
    """RoIAlign on the level of a feature pyramid that suits the size of each box.

    Args:
        output_size: int, or (height, width), in bins.
        scales: 1 / stride of each level, from fine to coarse, each half of the one before.
        sampling_ratio: see ``ROIAlign``.
        pooler_type: "ROIAlignV2" (pixel centres), or "ROIAlign" (half a pixel off).
        canonical_box_size: side in pixels of a box that is pooled from ``canonical_level``.
        canonical_level: log2 of a stride.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str,
        canonical_box_size: int = 224,
        canonical_level: int = 4,
    ):
        super().__init__()
        if isinstance(output_size, int):
            output_size = (output_size, output_size)
        self.output_size = tuple(output_size)
        if pooler_type not in ("ROIAlign", "ROIAlignV2"):
            raise NotImplementedError(
                f"pooler_type={pooler_type!r} is not in detectron2_lite; install Detectron2"
            )
        levels = [-math.log2(scale) for scale in scales]
        self.min_level, self.max_level = int(levels[0]), int(levels[-1])
        if levels != [float(i) for i in range(self.min_level, self.max_level + 1)]:
            raise ValueError(
                f"scales={list(scales)} are not a pyramid of 1 / 2^k, each half of the one before"
            )
        if not 0 < self.min_level:
            raise ValueError(f"scales={list(scales)}: the finest level needs a stride of 2 or more")
        self.level_poolers = nn.ModuleList(
            ROIAlign(self.output_size, scale, sampling_ratio, aligned=pooler_type == "ROIAlignV2")
            for scale in scales
        )
        self.canonical_box_size = canonical_box_size
        self.canonical_level = canonical_level

    def forward(self, x: Sequence[Tensor], box_lists: Sequence[Boxes]) -> Tensor:
        """Pool the boxes of every image.

        Args:
            x: feature maps (N, C, H_i, W_i), one per scale.
            box_lists: boxes of each of the N images, in pixels of the padded batch.

        Returns:
            (R, C, *output_size) for the R boxes of all images in order.
        """
        if len(x) != len(self.level_poolers):
            raise ValueError(f"{len(x)} feature maps for {len(self.level_poolers)} scales")
        if len(box_lists) != x[0].shape[0]:
            raise ValueError(f"boxes of {len(box_lists)} images, features of {x[0].shape[0]}")
        if len(box_lists) == 0:
            return x[0].new_zeros(0, x[0].shape[1], *self.output_size)
        rois = convert_boxes_to_pooler_format(box_lists)
        if len(self.level_poolers) == 1:
            return self.level_poolers[0](x[0], rois)
        assigned = assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        output = x[0].new_zeros(len(rois), x[0].shape[1], *self.output_size)
        for level, (features, pooler) in enumerate(zip(x, self.level_poolers, strict=True)):
            (inds,) = nonzero_tuple(assigned == level)
            # Also without boxes: DDP needs every level in the graph.
            output.index_put_((inds,), pooler(features, rois[inds]).to(output.dtype))
        return output
