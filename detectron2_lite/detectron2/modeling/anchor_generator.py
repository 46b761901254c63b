"""Anchors: reference boxes at every position of every feature map."""

import math
from collections.abc import Sequence

import torch
from detectron2.structures import Boxes
from torch import Tensor, nn

__all__ = ["DefaultAnchorGenerator"]


class _Buffers(nn.Module):
    """Tensors that move with the model but are not part of its state dict."""

    def __init__(self, tensors: Sequence[Tensor]):
        super().__init__()
        for i, tensor in enumerate(tensors):
            self.register_buffer(str(i), tensor, persistent=False)

    def __len__(self) -> int:
        return len(self._buffers)

    def __iter__(self):
        return iter(self._buffers.values())


def _per_level(values: Sequence, num_levels: int, name: str) -> Sequence:
    """``values`` for each level: as given, or one set of values shared by all levels."""
    if not isinstance(values[0], Sequence):
        values = [values]
    if len(values) == 1:
        values = list(values) * num_levels
    if len(values) != num_levels:
        raise ValueError(f"{len(values)} sets of {name} for {num_levels} strides")
    return values


class DefaultAnchorGenerator(nn.Module):
    """Anchors of several sizes and aspect ratios, centred on a grid per feature map.

    Args:
        sizes: for each level the sides, in pixels, of the square of equal area; or one such list
            for all levels.
        aspect_ratios: height / width, for each level or for all.
        strides: pixels per step of each feature map.
        offset: position of the first centre in strides, in [0, 1). ViTDet's configs take 0.0.
    """

    box_dim = 4

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]] | Sequence[float],
        aspect_ratios: Sequence[Sequence[float]] | Sequence[float],
        strides: Sequence[int],
        offset: float = 0.5,
    ):
        super().__init__()
        if not 0.0 <= offset < 1.0:
            raise ValueError(f"offset={offset} is not in [0, 1)")
        self.strides = list(strides)
        self.num_features = len(self.strides)
        self.offset = offset
        self.cell_anchors = _Buffers(
            [
                self.generate_cell_anchors(s, a)
                for s, a in zip(
                    _per_level(sizes, self.num_features, "sizes"),
                    _per_level(aspect_ratios, self.num_features, "aspect_ratios"),
                    strict=True,
                )
            ]
        )

    @staticmethod
    def generate_cell_anchors(
        sizes: Sequence[float] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1, 2),
    ) -> Tensor:
        """(len(sizes) * len(aspect_ratios), 4) anchors around (0, 0), by size, then by ratio."""
        anchors = []
        for size in sizes:
            for ratio in aspect_ratios:
                width = math.sqrt(size**2.0 / ratio)
                height = ratio * width
                anchors.append([-width / 2, -height / 2, width / 2, height / 2])
        return torch.tensor(anchors)

    @property
    def num_anchors(self) -> list[int]:
        """Anchors per position, for each level."""
        return [len(cell) for cell in self.cell_anchors]

    num_cell_anchors = num_anchors

    def forward(self, features: Sequence[Tensor]) -> list[Boxes]:
        """Anchors for feature maps (N, C, H_i, W_i), the same for every image.

        Returns:
            for each level (H_i * W_i * A) boxes, by row, then column, then anchor.
        """
        levels = zip(features, self.strides, self.cell_anchors, strict=True)
        return [Boxes(self._grid(f.shape[-2:], stride, cell)) for f, stride, cell in levels]

    def _grid(self, size: tuple[int, int], stride: int, cell: Tensor) -> Tensor:
        y, x = (
            (torch.arange(n, dtype=torch.float32, device=cell.device) + self.offset) * stride
            for n in size
        )
        y, x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([x, y, x, y], dim=2)
        # (H, W, 1, 4) + (A, 4) = (H, W, A, 4) -> (H * W * A, 4)
        return (centres[:, :, None] + cell).reshape(-1, 4)
