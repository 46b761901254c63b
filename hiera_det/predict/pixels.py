"""Images of any kind as pixels of the model's format: paths, Pillow, arrays, tensors."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from hiera_det.data.images import eight_bits, image_pixels, read_image

__all__ = ["as_pixels", "from_rgb"]

ORDERS = ("RGB", "BGR")


def as_pixels(
    image: Any,
    format: str = "RGB",
    *,
    channel_order: str = "RGB",
    intensity_range: Sequence[float] | None = None,
    page: int | None = None,
) -> np.ndarray:
    """One image as pixels.

    Args:
        image: a path; a Pillow image; an array (H, W, 3), (H, W) or (H, W, 1), of uint8, or of
            uint16, which is scaled as a file of 16 bits is; or a tensor uint8 (3, H, W).
        format: wanted: "RGB", "BGR" or "L".
        channel_order: of arrays and tensors of three channels: "RGB", or "BGR" as OpenCV reads.
        intensity_range, page: see `hiera_det.data.images.open_image`.

    Returns:
        uint8 (H, W, 3), or (H, W, 1) for "L".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged file; an array of another shape or type.
        TypeError: none of these kinds.
    """
    if channel_order not in ORDERS:
        raise ValueError(f"channel_order={channel_order!r} is neither of {', '.join(ORDERS)}")
    if isinstance(image, str | os.PathLike):
        return read_image(image, format, intensity_range, page)
    if isinstance(image, Image.Image):
        return image_pixels(image, format, intensity_range)
    if isinstance(image, Tensor):
        return from_rgb(_rgb(_channels_last(image), channel_order), format)
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint16:
            image = eight_bits(image, intensity_range)
        return from_rgb(_rgb(image, channel_order), format)
    raise TypeError(
        f"an image is a path, a Pillow image, a numpy array (H, W, 3) or a tensor (3, H, W), "
        f"not a {type(image).__name__}"
    )


def from_rgb(pixels: np.ndarray, format: str) -> np.ndarray:
    """uint8 (H, W, 3), RGB, in another format: uint8 (H, W, 3), or (H, W, 1) for "L"."""
    if format == "L":
        return image_pixels(Image.fromarray(pixels), "L")
    return pixels[:, :, ::-1] if format == "BGR" else pixels


def _channels_last(image: Tensor) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(
            f"a tensor of shape {tuple(image.shape)} is no image: it has to be uint8 (3, H, W)"
        )
    return image.detach().cpu().numpy().transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)


def _rgb(image: np.ndarray, channel_order: str) -> np.ndarray:
    """An array of uint8 as (H, W, 3) in RGB."""
    if image.dtype != np.uint8:
        raise ValueError(
            f"an image of {image.dtype}: give uint8 of 0 to 255 (floats of 0 to 1 times 255), or "
            "uint16"
        )
    grey = image[:, :, None] if image.ndim == 2 else image  # (H, W) -> (H, W, 1)
    if grey.ndim != 3 or grey.shape[2] not in (1, 3) or 0 in grey.shape:
        fix = "leave out the fourth channel, image[..., :3]" if grey.shape[2:] == (4,) else ""
        raise ValueError(
            f"an array of shape {image.shape} is no image: it has to be (H, W, 3) or (H, W)"
            f"{'; ' + fix if fix else ''}"
        )
    if grey.shape[2] == 1:
        return grey.repeat(3, axis=2)  # (H, W, 1) -> (H, W, 3)
    return grey[:, :, ::-1] if channel_order == "BGR" else grey
