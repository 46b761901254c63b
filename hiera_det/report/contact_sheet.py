"""Contact sheet: many small pictures with captions on one."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["draw_contact_sheet", "thumbnail"]

SIDE, CAPTION, GAP = 240, 20, 8  # px
BACKGROUND, INK = (255, 255, 255), (30, 30, 30)


def thumbnail(image: np.ndarray, caption: str) -> np.ndarray:
    """An image uint8 (H, W, 3) within a square of SIDE px, its caption above: uint8 RGB
    (CAPTION + SIDE, SIDE, 3)."""
    small = Image.fromarray(image)
    small.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    panel = Image.new("RGB", (SIDE, CAPTION + SIDE), BACKGROUND)
    panel.paste(small, ((SIDE - small.width) // 2, CAPTION))
    canvas, font = ImageDraw.Draw(panel), ImageFont.load_default(size=12)
    text = caption.encode("utf-8", "replace").decode("utf-8")
    if canvas.textlength(text, font) > SIDE:  # the end of a path tells more than its beginning
        while canvas.textlength(f"…{text}", font) > SIDE:
            text = text[1:]
        text = f"…{text}"
    canvas.text((SIDE // 2, CAPTION - 5), text, INK, font=font, anchor="ms")
    return np.array(panel)


def draw_contact_sheet(thumbnails: Sequence[np.ndarray], png_path: str | os.PathLike) -> Path:
    """Writes pictures of `thumbnail` beside and below each other, as a PNG file."""
    columns = min(6, len(thumbnails))
    rows = -(-len(thumbnails) // columns)
    height, width = CAPTION + SIDE + GAP, SIDE + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), BACKGROUND)
    for k, panel in enumerate(thumbnails):
        row, column = divmod(k, columns)
        sheet.paste(Image.fromarray(panel), (GAP + column * width, GAP + row * height))
    sheet.save(png_path, format="png", compress_level=1)  # a tenth of the time
    return Path(png_path)
