"""Contact sheet: many small pictures with captions on one."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["draw_contact_sheet", "thumbnail"]

SIDE, CAPTION, GAP = 240, 20, 8  # px
COLUMNS = 6
BACKGROUND, INK = (255, 255, 255), (30, 30, 30)


def thumbnail(image: np.ndarray, caption: str) -> np.ndarray:
    """A picture for `draw_contact_sheet`.

    Args:
        image: uint8 (H, W, 3), RGB.
        caption: written above; of one that is too long the end is kept.

    Returns:
        uint8 (CAPTION + h, SIDE, 3), RGB: the longer side of the image has SIDE px.
    """
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    small = Image.fromarray(image).resize(
        (max(1, round(scale * width)), max(1, round(scale * height))), Image.Resampling.BICUBIC
    )
    panel = Image.new("RGB", (SIDE, CAPTION + small.height), BACKGROUND)
    panel.paste(small, ((SIDE - small.width) // 2, CAPTION))
    canvas, font = ImageDraw.Draw(panel), ImageFont.load_default(size=12)
    text = caption.encode("utf-8", "replace").decode("utf-8")  # names may hold other bytes
    if canvas.textlength(text, font) > SIDE:
        while canvas.textlength(f"…{text}", font) > SIDE:
            text = text[1:]
        text = f"…{text}"
    canvas.text((SIDE // 2, CAPTION - 5), text, INK, font=font, anchor="ms")
    return np.array(panel)


def draw_contact_sheet(thumbnails: Sequence[np.ndarray], png_path: str | os.PathLike) -> Path:
    """Writes pictures of `thumbnail` beside and below each other, as a PNG file."""
    rows = [thumbnails[k : k + COLUMNS] for k in range(0, len(thumbnails), COLUMNS)]
    heights = [max(len(panel) for panel in row) for row in rows]
    width = len(rows[0]) * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, sum(heights) + (len(rows) + 1) * GAP), BACKGROUND)
    y = GAP
    for row, height in zip(rows, heights, strict=True):
        for k, panel in enumerate(row):
            sheet.paste(Image.fromarray(panel), (GAP + k * (SIDE + GAP), y))
        y += height + GAP
    sheet.save(png_path, format="png", compress_level=1)  # a tenth of the time
    return Path(png_path)
