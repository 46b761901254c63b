"""The image resize that Detectron2 adds to fvcore's deterministic transforms.

A ``Transform`` maps an image, coordinates, boxes, polygons and segmentations consistently.
Coordinates are continuous: pixel (row i, column j) covers [j, j + 1] x [i, i + 1], so a horizontal
flip maps x to W - x.
"""

import numpy as np
import torch
from fvcore.transforms.transform import Transform
from PIL import Image

__all__ = ["ResizeTransform"]

_TORCH_MODES = {
    Image.NEAREST: "nearest",
    Image.BILINEAR: "bilinear",
    Image.BICUBIC: "bicubic",
}


class ResizeTransform(Transform):
    """Resize an image from (h, w) to (new_h, new_w) pixels.

    Args:
        h, w: size of the input.
        new_h, new_w: size of the output.
        interp: a Pillow resampling filter; bilinear by default.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        super().__init__()
        self.h, self.w = h, w
        self.new_h, self.new_w = new_h, new_w
        self.interp = Image.BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize (H, W) or (H, W, C), keeping the dtype.

        uint8 goes through Pillow, whose filters widen when they shrink an image (antialiasing);
        other dtypes go through torch, whose filters do not.

        Raises:
            ValueError: the image does not have the size this transform was made for.
        """
        if img.shape[:2] != (self.h, self.w):
            raise ValueError(
                f"ResizeTransform was made for images of {self.h} x {self.w} (height x width), "
                f"got shape {img.shape}"
            )
        if img.ndim > 3:
            raise ValueError(f"expected an image of (H, W) or (H, W, C), got shape {img.shape}")
        interp = self.interp if interp is None else interp
        if img.dtype != np.uint8:
            return self._resize_with_torch(img, interp)
        # Pillow knows one-channel images only as (H, W).
        single_channel = img.ndim == 3 and img.shape[2] == 1
        pil = Image.fromarray(img[:, :, 0] if single_channel else img)
        out = np.array(pil.resize((self.new_w, self.new_h), interp))
        return out[:, :, None] if single_channel else out

    def _resize_with_torch(self, img: np.ndarray, interp: int) -> np.ndarray:
        if interp not in _TORCH_MODES:
            raise ValueError(
                f"interp={interp} resizes uint8 images only, got {img.dtype}; "
                "use nearest, bilinear or bicubic"
            )
        mode = _TORCH_MODES[interp]
        # negative strides (a flipped view) are unknown to torch
        x = torch.from_numpy(np.ascontiguousarray(img))
        channels_last = x[:, :, None] if img.ndim == 2 else x
        x = channels_last.permute(2, 0, 1)[None]  # (H, W, C) -> (1, C, H, W)
        x = torch.nn.functional.interpolate(
            x,
            (self.new_h, self.new_w),
            mode=mode,
            align_corners=None if mode == "nearest" else False,
        )
        out = x[0].permute(1, 2, 0).numpy()  # (1, C, H, W) -> (H, W, C)
        return out[:, :, 0] if img.ndim == 2 else out

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale (N, 2) points (x, y). The dtype stays, so integers are cut off, as Detectron2's."""
        dtype = coords.dtype if np.issubdtype(coords.dtype, np.floating) else np.float64
        scale = np.array([self.new_w / self.w, self.new_h / self.h], dtype=dtype)
        return (coords * scale).astype(coords.dtype, copy=False)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize a label map or a mask, (H, W), without mixing labels."""
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self) -> "ResizeTransform":
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)
