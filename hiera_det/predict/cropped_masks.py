"""Masks of a large image, each kept as the rectangle around it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

__all__ = ["CroppedMasks", "MaskCrop"]


class MaskCrop(NamedTuple):
    """A mask as the part of it that is not empty: bool (h, w), from row `y` and column `x` on."""

    y: int
    x: int
    pixels: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray, y: int = 0, x: int = 0) -> "MaskCrop":
        """The crop of a mask, bool (H, W), whose corner lies at (y, x)."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return cls(y, x, np.zeros((0, 0), dtype=bool))
        top, left = int(rows[0]), int(columns[0])
        pixels = mask[top : rows[-1] + 1, left : columns[-1] + 1].copy()
        return cls(y + top, x + left, pixels)

    def window(self, y0: int, x0: int, y1: int, x1: int) -> np.ndarray:
        """The mask in a rectangle of the image, where it is not empty for certain: bool (h, w)."""
        top, left = max(0, y0 - self.y), max(0, x0 - self.x)
        return self.pixels[top : max(top, y1 - self.y), left : max(left, x1 - self.x)]

    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 around its pixels, in px."""
        height, width = self.pixels.shape
        return self.x, self.y, self.x + width, self.y + height


class CroppedMasks:
    """N masks of one image, pasted into its size one at a time, when they are asked for.

    300 masks of 4096 x 4096 px are 5 GB as a tensor, and a few MB as this. In `Instances` it is
    used as the tensor would be: `masks[3]` is a bool tensor (H, W), `masks[flags]` some of them,
    `len(masks)`, `masks.shape`, and `for mask in masks`; `masks.tensor()` is the whole.
    """

    def __init__(self, crops: Sequence[MaskCrop], image_size: tuple[int, int]):
        """
        Args:
            crops: of N masks.
            image_size: (H, W) of the image.
        """
        self.crops = list(crops)
        self.image_size = image_size

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W)."""
        return len(self.crops), *self.image_size

    def __len__(self) -> int:
        return len(self.crops)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[k] for k in range(len(self)))

    @overload
    def __getitem__(self, item: int) -> Tensor: ...
    @overload
    def __getitem__(self, item: slice | Sequence[int] | Tensor | np.ndarray) -> "CroppedMasks": ...
    def __getitem__(self, item: Any) -> "Tensor | CroppedMasks":
        """One mask, bool (H, W), for a number; CroppedMasks for a slice, numbers or N flags."""
        if isinstance(item, int):
            crop = self.crops[item]
            mask = torch.zeros(self.image_size, dtype=torch.bool)
            height, width = crop.pixels.shape
            mask[crop.y : crop.y + height, crop.x : crop.x + width] = torch.from_numpy(crop.pixels)
            return mask
        numbers = np.arange(len(self))[item if isinstance(item, slice) else np.asarray(item)]
        if numbers.ndim == 0:
            return self[int(numbers)]
        return CroppedMasks([self.crops[k] for k in numbers], self.image_size)

    def tensor(self) -> Tensor:
        """bool (N, H, W)."""
        masks = [self[k] for k in range(len(self))]
        return torch.stack(masks) if masks else torch.zeros(self.shape, dtype=torch.bool)

    def to(self, *args: Any, **kwargs: Any) -> "CroppedMasks":
        """Itself: it lives on the CPU."""
        return self

    def areas(self) -> Tensor:
        """Pixels of each mask, int64 (N,)."""
        return torch.tensor([int(crop.pixels.sum()) for crop in self.crops], dtype=torch.int64)
