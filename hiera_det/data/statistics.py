"""Statistics of a COCO-format dataset that decide how to train on it: sizes, counts, masks."""

import math
import os
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .coco_annotations import is_image_id, is_number
from .coco_json import read_coco_json

__all__ = ["Statistics", "measure"]


@dataclass(frozen=True)
class Statistics:
    """Sizes and counts of a dataset; crowds are left out.

    Attributes:
        num_images: images with an object.
        num_objects: objects with a box of some size.
        num_without_mask: objects without one.
        longer, shorter: median of the longer and shorter side of these images, px.
        longest: the longest side of all, px.
        per_image: mean number of objects.
        boxes: float (N, 2), width and height as shares of their image's longer side.
    """

    num_images: int
    num_objects: int
    num_without_mask: int
    longer: float
    shorter: float
    longest: int
    per_image: float
    boxes: np.ndarray

    def sides(self, image_size: float) -> np.ndarray:
        """Square roots of the areas of the boxes, in images of a longer side: (N,) px."""
        return np.sqrt(self.boxes.prod(axis=1)) * image_size


def measure(json_file: str | os.PathLike) -> Statistics:
    """Measures a COCO-format file; what is bad in it is passed over, and left to its check.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not COCO's format, or there is no object in it.
    """
    path = Path(json_file).expanduser().resolve()
    return _measure(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=4)
def _measure(path: Path, changed: int) -> Statistics:
    content = read_coco_json(path)
    sides = {
        i["id"]: (i["width"], i["height"])
        for i in content["images"]
        if is_image_id(i.get("id")) and _is_size(i.get("width")) and _is_size(i.get("height"))
    }
    counts: Counter = Counter()
    boxes = []
    without = 0
    for annotation in content["annotations"]:
        image_id, box = annotation.get("image_id"), annotation.get("bbox")
        is_known = is_image_id(image_id) and image_id in sides
        if not is_known or annotation.get("iscrowd", 0) or not _is_box(box):
            continue
        counts[image_id] += 1
        without += not annotation.get("segmentation")
        longer = max(sides[image_id])
        boxes.append((box[2] / longer, box[3] / longer))
    if not boxes:
        raise ValueError(f"{path} has no object with a box: there is nothing to learn")
    used = [sides[k] for k in counts]
    return Statistics(
        num_images=len(used),
        num_objects=len(boxes),
        num_without_mask=without,
        longer=float(np.median([max(size) for size in used])),
        shorter=float(np.median([min(size) for size in used])),
        longest=max(max(size) for size in used),
        per_image=len(boxes) / len(used),
        boxes=np.array(boxes, dtype=np.float64),
    )


def _is_size(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _is_box(box: Any) -> bool:
    is_list = isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
    return is_list and box[2] > 0 and box[3] > 0 and math.isfinite(sum(box))
