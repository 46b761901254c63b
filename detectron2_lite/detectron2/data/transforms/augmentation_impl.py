"""The augmentations of the detection recipes.

They draw from ``np.random`` in a fixed order, the one of Detectron2, so that a seed gives the same
sequence of images under either.
"""

import sys
from collections.abc import Sequence

import numpy as np
from detectron2.data.transforms.augmentation import Augmentation
from detectron2.data.transforms.transform import ResizeTransform
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from PIL import Image

__all__ = ["FixedSizeCrop", "RandomFlip", "ResizeScale", "ResizeShortestEdge"]


class RandomFlip(Augmentation):
    """Flip with probability ``prob``, horizontally (default) or vertically.

    Raises:
        ValueError: not exactly one direction is chosen.
    """

    def __init__(
        self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False
    ) -> None:
        if horizontal == vertical:
            raise ValueError(
                f"RandomFlip flips in one direction, got horizontal={horizontal} and "
                f"vertical={vertical}; use two RandomFlip for both"
            )
        self.prob = prob
        self.horizontal = horizontal
        self.vertical = vertical

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        if self._rand_range() >= self.prob:  # drawn whatever prob is
            return NoOpTransform()
        return HFlipTransform(w) if self.horizontal else VFlipTransform(h)


class ResizeShortestEdge(Augmentation):
    """Resize keeping the aspect ratio: the short side to a drawn length, the long side capped.

    Args:
        short_edge_length: pixels. With ``sample_style="range"`` the bounds (min, max), both
            included; with ``"choice"`` the lengths to choose from. An int means that length.
        max_size: longest allowed side in pixels; where it binds, the short side gets shorter.
        interp: a Pillow resampling filter.
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.BILINEAR,
    ) -> None:
        if sample_style not in ("range", "choice"):
            raise ValueError(f"sample_style is 'range' or 'choice', got {sample_style!r}")
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        if sample_style == "range" and len(short_edge_length) != 2:
            raise ValueError(
                "sample_style='range' takes short_edge_length=(min, max), got "
                f"{short_edge_length}; list lengths under sample_style='choice'"
            )
        self.short_edge_length = short_edge_length
        self.max_size = max_size
        self.sample_style = sample_style
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        if self.sample_style == "range":
            low, high = self.short_edge_length
            size = np.random.randint(low, high + 1)
        else:
            size = np.random.choice(self.short_edge_length)
        if size == 0:
            return NoOpTransform()
        new_h, new_w = self.get_output_shape(h, w, size, self.max_size)
        return ResizeTransform(h, w, new_h, new_w, self.interp)

    @staticmethod
    def get_output_shape(
        oldh: int, oldw: int, short_edge_length: int, max_size: int
    ) -> tuple[int, int]:
        """(height, width) after the resize; halves round up."""
        scale = short_edge_length * 1.0 / min(oldh, oldw)
        new_h, new_w = oldh * scale, oldw * scale
        # The short side is exact, so that float error cannot turn 800 into 799.
        if oldh < oldw:
            new_h = short_edge_length
        else:
            new_w = short_edge_length
        longest = max(new_h, new_w)
        if longest > max_size:
            shrink = max_size * 1.0 / longest
            new_h, new_w = new_h * shrink, new_w * shrink
        return int(new_h + 0.5), int(new_w + 0.5)


class ResizeScale(Augmentation):
    """Resize to fit a target rectangle times a random scale, keeping the aspect ratio.

    With ``FixedSizeCrop`` of the same target this is large-scale jittering (LSJ).

    Args:
        min_scale, max_scale: the scale is uniform in [min_scale, max_scale).
        target_height, target_width: rectangle at scale 1, in pixels.
        interp: a Pillow resampling filter.
    """

    def __init__(
        self,
        min_scale: float,
        max_scale: float,
        target_height: int,
        target_width: int,
        interp: int = Image.BILINEAR,
    ) -> None:
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.target_height = target_height
        self.target_width = target_width
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        scale = np.random.uniform(self.min_scale, self.max_scale)
        h, w = image.shape[:2]
        fit = min(self.target_height * scale / h, self.target_width * scale / w)
        # np.round: halves go to the even side
        new_h, new_w = np.round(np.multiply((h, w), fit)).astype(int)
        return ResizeTransform(h, w, int(new_h), int(new_w), self.interp)


class FixedSizeCrop(Augmentation):
    """Crop a random window of a fixed size, and pad smaller images to that size.

    Args:
        crop_size: (height, width) in pixels.
        pad: pad at the right and bottom. False leaves smaller images as they are, for models
            that pad batches themselves (after normalising, so that the padding is 0).
        pad_value: for the image.
        seg_pad_value: for label maps.
    """

    def __init__(
        self,
        crop_size: Sequence[int],
        pad: bool = True,
        pad_value: float = 128.0,
        seg_pad_value: int = 255,
    ) -> None:
        self.crop_size = tuple(crop_size)
        self.pad = pad
        self.pad_value = pad_value
        self.seg_pad_value = seg_pad_value

    def get_transform(self, image: np.ndarray) -> TransformList:
        h, w = image.shape[:2]
        crop_h, crop_w = self.crop_size
        room = np.maximum((h - crop_h, w - crop_w), 0)
        # One number places both axes, and it is drawn even where there is nothing to crop.
        y0, x0 = np.round(np.multiply(room, np.random.uniform(0.0, 1.0))).astype(int)
        tfms: list[Transform] = [CropTransform(int(x0), int(y0), crop_w, crop_h, w, h)]
        if self.pad:
            kept_h, kept_w = min(h, crop_h), min(w, crop_w)
            tfms.append(
                PadTransform(
                    0,
                    0,
                    crop_w - kept_w,
                    crop_h - kept_h,
                    kept_w,
                    kept_h,
                    self.pad_value,
                    self.seg_pad_value,
                )
            )
        return TransformList(tfms)
