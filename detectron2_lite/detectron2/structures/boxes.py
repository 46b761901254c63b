"""Axis-aligned boxes in absolute pixel coordinates."""

from collections.abc import Iterator, Sequence
from enum import IntEnum, unique

import numpy as np
import torch
from torch import Tensor

__all__ = ["BoxMode", "Boxes", "pairwise_iou"]


@unique
class BoxMode(IntEnum):
    """How the numbers of a box are meant; the values are those written in dataset dicts."""

    XYXY_ABS = 0  # x0, y0, x1, y1 in pixels
    XYWH_ABS = 1  # x0, y0, width, height in pixels
    XYXY_REL = 2  # x0, y0, x1, y1 in [0, 1]; cannot be converted
    XYWH_REL = 3  # x0, y0, width, height in [0, 1]; cannot be converted
    XYWHA_ABS = 4  # centre x, centre y, width, height, angle in degrees; cannot be converted

    @staticmethod
    def convert(
        box: Sequence[float] | Tensor | np.ndarray, from_mode: "BoxMode", to_mode: "BoxMode"
    ) -> Sequence[float] | Tensor | np.ndarray:
        """Convert between XYXY_ABS and XYWH_ABS.

        Args:
            box: list or tuple of 4 numbers, or array or tensor of shape (N, 4).

        Returns:
            The same type, shape and dtype as ``box``; ``box`` itself if the modes are equal.

        Raises:
            ValueError: if a box has not got 4 numbers.
            NotImplementedError: for relative and rotated modes.
        """
        if from_mode == to_mode:
            return box
        if {from_mode, to_mode} != {BoxMode.XYXY_ABS, BoxMode.XYWH_ABS}:
            raise NotImplementedError(
                f"conversion of boxes from {BoxMode(from_mode).name} to {BoxMode(to_mode).name} "
                "is not in detectron2_lite; install Detectron2"
            )
        if isinstance(box, list | tuple):
            # In float32, as a tensor is: annotations are lists, and are to give the same boxes.
            converted = BoxMode.convert(torch.tensor(box), from_mode, to_mode)
            return type(box)(converted.tolist())
        if box.ndim == 0 or box.shape[-1] != 4:
            raise ValueError(f"boxes have 4 numbers, got shape {tuple(box.shape)}: {box}")
        sign = 1 if from_mode == BoxMode.XYWH_ABS else -1
        out = box.clone() if isinstance(box, Tensor) else np.array(box)
        out[..., 2:] += sign * box[..., :2]
        return out


class Boxes:
    """A tensor (N, 4) of float32 x0, y0, x1, y1 in pixels, with the usual operations.

    ``len()`` is N; iterating gives tensors of shape (4,); indexing with an int, a slice or a
    tensor of indices or booleans gives ``Boxes``.
    """

    def __init__(self, tensor: Tensor | np.ndarray | Sequence[Sequence[float]]):
        tensor = torch.as_tensor(tensor, dtype=torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(0, 4)  # (any empty shape) -> (0, 4)
        if tensor.dim() != 2 or tensor.shape[-1] != 4:
            raise ValueError(f"boxes have shape (N, 4), got {tuple(tensor.shape)}")
        self.tensor = tensor

    def clone(self) -> "Boxes":
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device | str) -> "Boxes":
        return Boxes(self.tensor.to(device=device))

    def area(self) -> Tensor:
        """(N,) areas in square pixels."""
        x0, y0, x1, y1 = self.tensor.unbind(dim=1)
        return (x1 - x0) * (y1 - y0)

    def clip(self, box_size: tuple[int, int]) -> None:
        """Move the sides into an image of ``box_size`` (height, width), in place."""
        if not torch.isfinite(self.tensor).all():
            raise ValueError("cannot clip boxes that contain inf or nan")
        height, width = box_size
        x0, y0, x1, y1 = self.tensor.unbind(dim=1)
        self.tensor = torch.stack(
            [x0.clamp(0, width), y0.clamp(0, height), x1.clamp(0, width), y1.clamp(0, height)],
            dim=1,
        )

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """(N,) bool: both sides are longer than ``threshold`` pixels."""
        sides = self.tensor[:, 2:] - self.tensor[:, :2]
        return (sides > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """(N,) bool: no side leaves (height, width) by ``boundary_threshold`` pixels or more."""
        height, width = box_size
        x0, y0, x1, y1 = self.tensor.unbind(dim=1)
        t = boundary_threshold
        return (x0 >= -t) & (y0 >= -t) & (x1 < width + t) & (y1 < height + t)

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates, in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: Sequence["Boxes"]) -> "Boxes":
        """All boxes of a list one after the other, in new memory."""
        if not boxes_list:
            return cls(torch.empty(0, 4))
        return cls(torch.cat([b.tensor for b in boxes_list], dim=0))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __getitem__(self, item: int | slice | Tensor) -> "Boxes":
        selected = self.tensor[item]
        return Boxes(selected[None] if isinstance(item, int) else selected)

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """(N, M) intersection over union of every box of the one with every box of the other.

    Boxes that do not intersect have 0, also where both areas are 0.
    """
    ax0, ay0, ax1, ay1 = boxes1.tensor[:, :, None].unbind(dim=1)  # (N, 1) each
    bx0, by0, bx1, by1 = boxes2.tensor.unbind(dim=1)  # (M,) each
    width = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp_(min=0)
    height = (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp_(min=0)
    intersection = width.mul_(height)
    union = boxes1.area()[:, None] + boxes2.area() - intersection
    return torch.where(intersection > 0, intersection / union, 0.0)
