"""Folders of label maps: one image of the same size for each image, every value an instance.

0 is background. Maps of 8, 16 and 32 bits, of a palette (Pascal VOC's SegmentationObject), and of
one colour an instance. They lie in a folder beside images/, or beside each image (Cellpose).
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

NAME = "folder of label maps"
FOLDERS = ("masks", "labels", "label_maps", "instances", "annotations", "SegmentationObject")
IMAGE_FOLDERS = ("images", "JPEGImages")
ENDINGS = ("", "_cp_masks", "_masks", "_mask", "_labels", "_label", "_instances")
VOID = 255  # in palettes of Pascal VOC: the border between objects
MANY_VALUES = 100_000  # in one map: it is a picture


def detect(path: Path) -> bool:
    return path.is_dir() and any(label_map is not None for _, label_map in _pairs(path))


def read(path: Path, class_name: str) -> Source:
    """Reads a folder of images and label maps; one map at a time is held in memory."""
    builder = Builder(NAME, [class_name])
    void = binary = 0
    for file, map_file in progress(list(_pairs(path)), "label maps"):
        if map_file is None:
            builder.changes.add("image without a label map", "left out", str(file))
            continue
        try:
            labels, is_palette = _read_labels(map_file)
        except (OSError, ValueError, SyntaxError) as error:
            builder.changes.add("label map that cannot be used", "image left out", str(error))
            continue
        image = builder.add_image(file, _split_of(path, file))
        if image is None:
            continue
        size = (image["height"], image["width"])
        if labels.shape != size:
            builder.drop_last_image()
            example = f"{map_file}: (height, width) {labels.shape}, its image {size}"
            what = "label map of another size than its image"
            builder.changes.add(what, "image left out", example)
            continue
        rles = labels_to_rles(labels)
        if is_palette and rles.pop(VOID, None) is not None:
            void += 1
        binary += len(rles) == 1
        for rle in rles.values():
            box, area = mask_util.toBbox(rle).tolist(), float(mask_util.area(rle))
            builder.add_object(image, 0, box, rle, area)
    if void:
        builder.notes.append(
            f"value {VOID} of {void} palette maps is Pascal VOC's border: left out"
        )
    if binary > len(builder.images) / 2:
        builder.notes.append(
            f"{binary} of {len(builder.images)} maps have one value beside 0. Where it marks all "
            "objects of the image, they were taken for one object: number them in the maps first"
        )
    return builder.source(path)


def _pairs(path: Path) -> Iterator[tuple[Path, Path | None]]:
    """Every image with its label map; none where there is nothing like it."""
    folders = [path / name for name in IMAGE_FOLDERS if (path / name).is_dir()]
    maps = [path / name for name in FOLDERS if (path / name).is_dir()]
    if folders and maps:
        for file in find_images(folders[0]):
            inside = file.relative_to(folders[0]).with_suffix("")
            found = (_beside(folder / inside, ENDINGS) for folder in maps)
            yield file, next((label_map for label_map in found if label_map), None)
    elif not folders:
        endings = ENDINGS[1:]
        for file in find_images(path):
            if not file.stem.endswith(endings):
                yield file, _beside(file.with_suffix(""), endings)


def _split_of(path: Path, file: Path) -> str | None:
    roots = [path / name for name in IMAGE_FOLDERS if path / name in file.parents]
    return split_of(file.relative_to(roots[0] if roots else path))


def _beside(stem: Path, endings: tuple[str, ...]) -> Path | None:
    for ending in endings:
        for suffix in (".png", ".tif", ".tiff", ".bmp"):
            file = stem.parent / f"{stem.name}{ending}{suffix}"
            if is_image(file):
                return file
    return None


def _read_labels(file: Path) -> tuple[np.ndarray, bool]:
    """Whole numbers (H, W) as they stand in the file, and whether it has a palette.

    Raises:
        ValueError: several images, or values that are no labels. Names the file.
    """
    with Image.open(file) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"{file} holds {image.n_frames} images, not one map")
        mode = image.mode
        pixels = np.asarray(upright(image))
    if pixels.ndim == 3 and pixels.shape[2] == 2:  # grey and alpha
        pixels = pixels[:, :, 0]
    elif pixels.ndim == 3:
        red, green, blue = (pixels[:, :, k].astype(np.int64) for k in range(3))
        is_grey = (red == green).all() and (green == blue).all()
        pixels = red if is_grey else red << 16 | green << 8 | blue  # a colour an instance
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and (pixels == np.round(pixels)).all()):
            raise ValueError(f"{file} holds fractions, not labels")
    labels = pixels.astype(np.int64)
    if labels.min() < 0:
        raise ValueError(f"{file} holds negative values, down to {labels.min()}")
    if len(np.unique(labels)) > MANY_VALUES:
        raise ValueError(f"{file} holds more than {MANY_VALUES} values: it is no label map")
    return labels, mode == "P"
