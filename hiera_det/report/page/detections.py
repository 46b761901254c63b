"""Ground truth and detections of a run, and which detection found which object.

Ids of images and classes are replaced by their positions, 1 to N and 1 to K, so that files whose
ids are strings go the same way as all others.
"""

import contextlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig
from pycocotools.coco import COCO

from hiera_det.data.coco_json import read_coco_json
from hiera_det.data.evaluator import complete_ground_truth
from hiera_det.data.run_check import dataset_names

__all__ = ["IGNORED", "NOTHING", "Matches", "Truth", "match", "read_detections", "read_truth"]

MIN_IOU = 0.5  # of a detection that has found an object
NOTHING, IGNORED = -1, -2  # what a detection was matched with: no object, or a crowd


@dataclass
class Truth:
    """A dataset.

    Attributes:
        content: of its COCO file, ids replaced and completed as for scoring.
        image_ids: the ids in the file, in order.
        category_ids: likewise, by rising id.
        names: of the classes.
        root: the folder that file names start from.
        json_file: where it was read.
        coco: `content` as pycocotools' index.
    """

    content: dict[str, Any]
    image_ids: list[Any]
    category_ids: list[Any]
    names: list[str]
    root: Path
    json_file: Path
    coco: COCO

    def has_masks(self) -> bool:
        objects = self.content["annotations"]
        return bool(objects) and all(a.get("segmentation") for a in objects)


def read_truth(cfg: DictConfig, split: str = "test", max_bytes: int | None = None) -> Truth:
    """The first dataset of `dataloader.test` or `dataloader.train`.

    Raises:
        FileNotFoundError, ValueError: there is none, or its file is missing , larger
            than `max_bytes`, or no COCO file.
    """
    names = dataset_names(cfg, split)
    if not names:
        raise ValueError(f"dataloader.{split}.dataset.names names no dataset")
    metadata = MetadataCatalog.get(names[0])
    json_file = metadata.get("json_file")
    if json_file is None:
        raise ValueError(f"the dataset {names[0]!r} has no COCO file")
    if max_bytes is not None and (size := Path(json_file).stat().st_size) > max_bytes:
        raise ValueError(f"{json_file} is of {size / 1e6:,.0f} MB, which takes long to read")
    content = read_coco_json(json_file)
    images = content["images"]
    categories = sorted(content["categories"], key=lambda c: c["id"])
    image_numbers = {image["id"]: k for k, image in enumerate(images, 1)}
    category_numbers = {category["id"]: k for k, category in enumerate(categories, 1)}
    new = {
        "info": {},
        "images": [image | {"id": k} for k, image in enumerate(images, 1)],
        "categories": [category | {"id": k} for k, category in enumerate(categories, 1)],
        "annotations": [
            annotation
            | {
                "image_id": image_numbers[annotation["image_id"]],
                "category_id": category_numbers[annotation["category_id"]],
            }
            for annotation in content["annotations"]
        ],
    }
    complete_ground_truth(new)
    return Truth(
        content=new,
        image_ids=list(image_numbers),
        category_ids=list(category_numbers),
        names=[str(category["name"]) for category in categories],
        root=Path(metadata.get("image_root") or ""),
        json_file=Path(json_file),
        coco=_indexed(new),
    )


def _indexed(content: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        coco.createIndex()
    return coco


def read_detections(path: Path, truth: Truth) -> tuple[list[dict], int]:
    """A `coco_instances_results.json` with the ids of `truth`, and how many were of other ids.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no list of detections, or cut short.
    """
    try:
        entries = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path.name} is no list of detections")
    images = {value: k for k, value in enumerate(truth.image_ids, 1)}
    categories = {value: k for k, value in enumerate(truth.category_ids, 1)}
    detections = [
        entry
        | {
            "image_id": images[entry["image_id"]],
            "category_id": categories[entry["category_id"]],
        }
        for entry in entries
        if entry.get("image_id") in images
        and entry.get("category_id") in categories
        and "score" in entry
        and "bbox" in entry
    ]
    return detections, len(entries) - len(detections)


# ------------------------------------------------------------------------------------ matching
@dataclass
class Matches:
    """The detections of one image, by falling score, and its objects.

    Attributes:
        detections, objects: entries of COCO's format, D and G of them.
        same_class: (D,), the object of the same class that a detection has found (IoU of 0.5 at
            least, the best still free), NOTHING, or IGNORED where it lies on a crowd.
        any_class: likewise among objects of all classes; a confusion is where they differ.
    """

    detections: list[dict]
    objects: list[dict]
    same_class: np.ndarray
    any_class: np.ndarray


def match(truth: Truth, detections: list[dict], task: str, limit: int) -> Iterator[Matches]:
    """Matches the detections of each image in turn.

    Args:
        truth, detections: of this module.
        task: "bbox" or "segm", what overlap is measured of.
        limit: detections of an image that count, those with the highest scores.
    """
    by_image: dict[int, list[dict]] = defaultdict(list)
    for detection in detections:
        by_image[detection["image_id"]].append(detection)
    for image in truth.content["images"]:
        found = sorted(by_image[image["id"]], key=lambda d: -d["score"])[:limit]
        objects = truth.coco.imgToAnns[image["id"]]
        crowds = [int(bool(a["iscrowd"])) for a in objects]
        if task == "segm":
            shapes = [truth.coco.annToRLE(a) for a in objects]
            overlap = mask_util.iou([d["segmentation"] for d in found], shapes, crowds)
        else:
            overlap = mask_util.iou(
                [d["bbox"] for d in found], [[float(v) for v in a["bbox"]] for a in objects], crowds
            )
        iou = np.asarray(overlap, dtype=float).reshape(len(found), len(objects))  # (D, G)
        crowd = np.array(crowds, dtype=bool)
        classes = np.array([a["category_id"] for a in objects], dtype=int)
        same = np.array([d["category_id"] for d in found], dtype=int)[:, None] == classes  # (D, G)
        yield Matches(found, objects, _greedy(np.where(same, iou, 0.0), crowd), _greedy(iou, crowd))


def _greedy(iou: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """COCO's rule: each detection in turn takes the object it overlaps best, if still free.

    Args:
        iou: (D, G), by falling score.
        crowd: bool (G,).

    Returns:
        int (D,).
    """
    taken = np.full(len(iou), NOTHING)
    if not iou.size:
        return taken
    free = ~crowd
    for k, row in enumerate(iou):
        best = int(np.argmax(np.where(free, row, -1.0)))
        if free[best] and row[best] >= MIN_IOU:
            taken[k] = best
            free[best] = False
        elif (row[crowd] >= MIN_IOU).any():
            taken[k] = IGNORED
    return taken
