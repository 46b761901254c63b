"""A batch of images of different sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["ImageList"]


class ImageList:
    """Images padded at the bottom and right into one tensor; ``images[i]`` is without padding.

    Args:
        tensor: (N, H, W) or (N, C, H, W).
        image_sizes: (height, width) of each image before padding.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: Sequence[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: Mapping[str, int] | None = None,
    ) -> "ImageList":
        """Pad images (C, H, W), or (H, W), to a common size.

        That size is the largest height and width of the batch or, with a "square_size" > 0 among
        the constraints, that number twice; then rounded up to a multiple of the divisibility.

        Args:
            size_divisibility: 0 and 1 mean no rounding; a "size_divisibility" among the
                constraints goes before it.
            padding_constraints: that of a ``Backbone``.

        Raises:
            ValueError: if an image is larger than the square. (Detectron2 crops it, silently, if
                it is alone in its batch.)
        """
        if not tensors:
            raise ValueError("ImageList.from_tensors of no images")
        constraints = padding_constraints or {}
        square = constraints.get("square_size", 0)
        divisor = constraints.get("size_divisibility", size_divisibility)

        image_sizes = [tuple(t.shape[-2:]) for t in tensors]
        height, width = (square, square) if square > 0 else map(max, zip(*image_sizes, strict=True))
        if divisor > 1:
            height, width = (-(-side // divisor) * divisor for side in (height, width))
        for h, w in image_sizes:
            if h > height or w > width:
                raise ValueError(
                    f"an image of {h}x{w} (height x width) does not fit into the {height}x{width} "
                    f"to which square_pad={square} pads; resize it, for example with "
                    f"ResizeShortestEdge({square}, {square})"
                )

        # (C, H, W) each -> (N, C, height, width)
        batch = tensors[0].new_full(
            (len(tensors), *tensors[0].shape[:-2], height, width), pad_value
        )
        for padded, image in zip(batch, tensors, strict=True):
            padded[..., : image.shape[-2], : image.shape[-1]].copy_(image)
        return ImageList(batch, image_sizes)
