"""Paste box-sized masks into the image."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["paste_masks_in_image"]

# Bound on the float32 samples that are held at once when pasting on a GPU.
_MAX_SAMPLES = 2**28


def paste_masks_in_image(
    masks: Tensor, boxes: Tensor, image_shape: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Resample each mask from its box onto the pixel grid of the image.

    Args:
        masks: (N, M, M) probabilities that span the boxes.
        boxes: ``Boxes`` or (N, 4) tensor of x0, y0, x1, y1 in pixels.
        image_shape: (height, width) of the result.
        threshold: a pixel belongs to the mask if its value is >= this; negative to get the
            values themselves.

    Returns:
        (N, height, width), bool, or uint8 ``255 * value`` if ``threshold`` is negative.
    """
    if masks.shape[-1] != masks.shape[-2]:
        raise ValueError(f"paste_masks_in_image takes square masks, got {tuple(masks.shape)}")
    boxes = getattr(boxes, "tensor", boxes)
    if len(boxes) != len(masks):
        raise ValueError(f"{len(masks)} masks but {len(boxes)} boxes")
    height, width = image_shape
    binary = threshold >= 0
    dtype = torch.bool if binary else torch.uint8
    out = torch.zeros(len(masks), height, width, dtype=dtype, device=masks.device)

    if masks.device.type == "cpu":
        step = 1  # one by one, so that only the pixels around a box are sampled
    else:
        step = max(1, _MAX_SAMPLES // max(1, height * width))
    for i in range(0, len(masks), step):
        part = boxes[i : i + step]
        rows, cols = slice(0, height), slice(0, width)
        if step == 1:
            rows, cols = _hull(part[0], image_shape)
        values = _sample(masks[i : i + step], part, rows, cols)
        out[i : i + step, rows, cols] = (
            values >= threshold if binary else (values * 255).to(torch.uint8)
        )
    return out


def _hull(box: Tensor, image_shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns around ``box``, one pixel wider on each side, within the image."""
    height, width = image_shape
    x0, y0 = (max(int(v), 0) for v in (box[:2].floor() - 1).tolist())
    x1, y1 = (int(v) for v in (box[2:].ceil() + 1).tolist())
    return slice(y0, max(y0, min(y1, height))), slice(x0, max(x0, min(x1, width)))


def _sample(masks: Tensor, boxes: Tensor, rows: slice, cols: slice) -> Tensor:
    """Values (N, rows, cols) of ``masks`` (N, M, M) at the centres of the given pixels."""
    if not masks.is_floating_point():
        masks = masks.float()
    x0, y0, x1, y1 = boxes.float().split(1, dim=1)  # (N, 1) each
    y = torch.arange(rows.start, rows.stop, device=masks.device, dtype=torch.float32) + 0.5
    x = torch.arange(cols.start, cols.stop, device=masks.device, dtype=torch.float32) + 0.5
    y = (y - y0) / (y1 - y0) * 2 - 1  # (N, rows), -1 and 1 at the sides of the box
    x = (x - x0) / (x1 - x0) * 2 - 1  # (N, cols)
    size = (len(masks), y.shape[1], x.shape[1])
    grid = torch.stack([x[:, None, :].expand(size), y[:, :, None].expand(size)], dim=3)
    # (N, 1, rows, cols) -> (N, rows, cols)
    return F.grid_sample(masks[:, None], grid.to(masks.dtype), align_corners=False)[:, 0]
