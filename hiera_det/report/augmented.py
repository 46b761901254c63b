"""What a model sees of its training images: augmented ones beside the original, as a PNG file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, BoxMode
from omegaconf import DictConfig
from PIL import Image, ImageDraw, ImageFont

from hiera_det.data.images import read_image
from hiera_det.data.loaders import seeded
from hiera_det.data.rle import as_rle
from hiera_det.data.run_check import dataset_names

from .predictions import class_colors, class_labels, draw_instances

__all__ = ["draw_augmented"]

GAP, CAPTION = 8, 24  # px
PAPER, INK = (255, 255, 255), (30, 30, 30)
SMALLEST = 320  # px of a picture's longer side; smaller ones are enlarged, so that lines stay thin
LARGEST = 640


def draw_augmented(
    cfg: DictConfig,
    png_path: str | os.PathLike,
    *,
    num_images: int = 4,
    num_draws: int = 3,
    seed: int = 0,
) -> Path:
    """Draws a row for each image: as it is, and as the training mapper gives it, several times.

    Args:
        cfg: of a detector, with `dataloader.train.mapper` and `dataloader.train.dataset.names`.
        png_path: the picture.
        num_images: rows; images with objects are drawn at random.
        num_draws: augmented pictures of each.
        seed: of the choice and the augmentations.

    Returns:
        `png_path`.

    Raises:
        FileExistsError: there is a file of that name.
        ValueError: the config names no dataset, or no image has an object.
    """
    png_path = Path(png_path)
    if os.path.lexists(png_path):
        raise FileExistsError(f"{png_path} is there already: remove it, or choose another name")
    names = dataset_names(cfg, "train")
    if not names:
        raise ValueError("the config names no dataloader.train.dataset.names: nothing to draw")
    records = [r for name in names for r in DatasetCatalog.get(name) if r.get("annotations")]
    if not records:
        raise ValueError(f"no image of {', '.join(names)} has an object")
    metadata = MetadataCatalog.get(names[0])
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))
    mapper = instantiate(cfg.dataloader.train.mapper)
    rows = []
    for k in order[:num_images].tolist():
        cells = [_original(records[k], cfg, metadata)]
        for draw in range(num_draws):
            with seeded((seed * 1_000_003 + k * num_draws + draw) % 2**32):
                mapped = mapper(records[k])
            title = "as trained" if num_draws == 1 else f"as trained, draw {draw + 1}"
            cells.append(_augmented(mapped, mapper.image_format, metadata, title))
        rows.append(cells)
    widths = [max(row[c].shape[1] for row in rows) for c in range(num_draws + 1)]
    picture = np.vstack([_row(cells, widths) for cells in rows])
    png_path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(png_path, format="png")
    return png_path


def _original(record: dict, cfg: DictConfig, metadata: Any) -> np.ndarray:
    loader = cfg.dataloader
    image = read_image(
        record["file_name"], "RGB", loader.get("intensity_range"), loader.get("page")
    )
    objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    size = image.shape[:2]
    masks = None
    if objects and all(a.get("segmentation") for a in objects):
        masks = np.stack([_decode(a["segmentation"], size) for a in objects])
    classes = [a["category_id"] for a in objects]
    name = Path(record["file_name"]).name
    return _cell(image, boxes, classes, masks, metadata, f"{name}, {size[1]} x {size[0]}")


def _augmented(mapped: dict, image_format: str, metadata: Any, title: str) -> np.ndarray:
    image = mapped["image"].permute(1, 2, 0).numpy()  # (C, H, W) -> (H, W, C)
    image = image[:, :, ::-1] if image_format == "BGR" else image
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    instances = mapped["instances"]
    size = image.shape[:2]
    masks = None
    if instances.has("gt_masks") and len(instances):
        found = instances.gt_masks
        if isinstance(found, BitMasks):
            masks = found.tensor.numpy()
        else:
            masks = np.stack([_decode(polygons, size) for polygons in found.polygons])
    return _cell(
        image,
        instances.gt_boxes.tensor,
        instances.gt_classes.tolist(),
        masks,
        metadata,
        f"{title}: {size[1]} x {size[0]}, {len(instances)} objects",
    )


def _decode(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """bool (H, W) of polygons or an RLE."""
    if not isinstance(segmentation, dict):
        segmentation = [np.asarray(p).tolist() for p in segmentation]
    return mask_util.decode(as_rle(segmentation, *size)).astype(bool)


def _cell(
    image: np.ndarray,
    boxes: Any,
    classes: Sequence[int],
    masks: np.ndarray | None,
    metadata: Any,
    caption: str,
) -> np.ndarray:
    """A picture with its instances below a caption: uint8 RGB."""
    height, width = image.shape[:2]
    longer = max(height, width)
    scale = min(max(longer, SMALLEST), LARGEST) / longer
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    # Enlarged pixels stay squares, so that what the model sees can be told.
    resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    resized = _resize(image, (width, height), resample)
    if masks is not None:
        masks = np.stack([_resize(m, (width, height), Image.Resampling.NEAREST) for m in masks])
    names = metadata.get("thing_classes") or []
    colors = class_colors(metadata, max([*classes, 0]) + 1)
    drawn = draw_instances(
        resized,
        torch.as_tensor(np.asarray(boxes), dtype=torch.float32).reshape(-1, 4) * scale,
        class_labels(classes, names),
        [colors[k] for k in classes],
        masks,
    )
    cell = Image.new("RGB", (max(width, SMALLEST), CAPTION + height), PAPER)
    cell.paste(Image.fromarray(drawn), (0, CAPTION))
    font = ImageFont.load_default(size=13)
    ImageDraw.Draw(cell).text((2, CAPTION - 7), caption, INK, font=font, anchor="ls")
    return np.array(cell)


def _resize(pixels: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    """An image or mask (H, W, ...) at (width, height)."""
    return np.array(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, resample))


def _row(cells: list[np.ndarray], widths: list[int]) -> np.ndarray:
    """Cells beside each other, each padded to the width of its column."""
    height = max(len(cell) for cell in cells) + GAP
    padded = []
    for cell, width in zip(cells, widths, strict=True):
        below, right = height - len(cell), width + GAP - cell.shape[1]
        padded.append(np.pad(cell, ((0, below), (0, right), (0, 0)), constant_values=255))
    return np.hstack(padded)
