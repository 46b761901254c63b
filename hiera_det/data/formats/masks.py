"""Folders of one mask image for each instance; overlapping instances stay apart, holes are kept.

Layouts: images/ beside masks/NAME/*.png, where NAME is an image's name without its suffix; and that
of the 2018 Data Science Bowl, ID/images/ID.png beside ID/masks/*.png.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from ..images import upright
from ..progress import progress
from ..rle import labels_to_rles
from .source import Builder, Source, find_images, is_image, split_of

__all__ = ["detect", "read"]

NAME = "folder of one mask image an instance"


def detect(path: Path) -> bool:
    return path.is_dir() and any(folder.is_dir() for _, folder in _pairs(path))


def read(path: Path, class_name: str) -> Source:
    """Reads a folder in one of the layouts; one mask at a time is held in memory."""
    builder = Builder(NAME, [class_name])
    without = 0
    for file, folder in progress(list(_pairs(path)), "masks"):
        within = path / "images"
        inside = file.relative_to(within if within in file.parents else path)
        image = builder.add_image(file, split_of(inside))
        if image is None:
            continue
        masks = sorted(m for m in folder.iterdir() if is_image(m)) if folder.is_dir() else []
        without += not masks
        for mask in masks:
            _add(mask, image, builder)
    if without:
        builder.notes.append(f"{without} images have no masks and are taken for empty")
    return builder.source(path)


def _pairs(path: Path) -> Iterator[tuple[Path, Path]]:
    """Every image with the folder of its masks."""
    if (path / "images").is_dir() and (path / "masks").is_dir():
        if any(child.is_dir() for child in (path / "masks").iterdir()):
            for file in find_images(path / "images"):
                inside = file.relative_to(path / "images")
                yield file, path / "masks" / inside.parent / inside.stem
            return
    for child in sorted(path.rglob("images")):
        masks = child.parent / "masks"
        if child.is_dir() and child.parent != path and masks.is_dir():
            files = [file for file in sorted(child.iterdir()) if is_image(file)]
            if len(files) == 1:
                yield files[0], masks


def _add(file: Path, image: dict, builder: Builder) -> None:
    try:
        with Image.open(file) as opened:
            mask = _set_pixels(upright(opened))
    except (OSError, ValueError, SyntaxError) as error:
        builder.changes.add("mask that cannot be read", "left out", f"{file}: {error}")
        return
    size = (image["height"], image["width"])
    if mask.shape != size:
        example = f"{file}: (height, width) {mask.shape}, its image {size}"
        builder.changes.add("mask of another size than its image", "left out", example)
        return
    rle = labels_to_rles(mask.astype(np.uint8)).get(1)
    if rle is None:
        builder.changes.add("mask without a pixel", "left out", str(file))
        return
    builder.add_object(image, 0, mask_util.toBbox(rle).tolist(), rle, float(mask_util.area(rle)))


def _set_pixels(image: Image.Image) -> np.ndarray:
    """bool (H, W): those above half of the largest value, so that soft edges are cut."""
    if image.mode in ("RGBA", "LA", "RGB", "CMYK", "PA"):
        image = image.convert("RGB").convert("L")
    pixels = np.asarray(image)
    if image.mode == "P":  # indices, which are no brightness
        return pixels != 0
    return pixels > pixels.max() / 2
