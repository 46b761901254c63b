"""Datasets in COCO's instance annotation format."""

import functools
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pycocotools.mask as mask_util
from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

__all__ = ["load_coco_json", "register_coco_instances"]

logger = logging.getLogger(__name__)


def load_coco_json(
    json_file: str,
    image_root: str,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[dict]:
    """Load a COCO-format JSON.

    Args:
        json_file: path of the annotations.
        image_root: folder that the file names in the JSON are relative to.
        dataset_name: if given, category ids become 0..K-1 in the order of the ids, and the
            metadata of that name gets ``thing_classes`` and
            ``thing_dataset_id_to_contiguous_id``.
        extra_annotation_keys: keys of annotations to keep besides ``iscrowd``, ``bbox``,
            ``category_id`` and ``segmentation``.

    Returns:
        one dict per image, by ascending image id: ``file_name``, ``height``, ``width``,
        ``image_id``, ``annotations``. Boxes are ``BoxMode.XYWH_ABS``; a segmentation is a list of
        polygons or a compressed RLE. Polygons with fewer than 3 points are dropped, and an
        instance of which none is left, too.

    Raises:
        FileNotFoundError: there is no such JSON.
        ValueError: it is not COCO's format, or an annotation contradicts the rest of the file.
    """
    start = time.perf_counter()
    content = _read_json(json_file)
    logger.info("Loaded %s in %.2f seconds", json_file, time.perf_counter() - start)

    id_map = _id_map_of(content["categories"], json_file)
    if dataset_name is not None:
        if list(id_map) != list(range(1, len(id_map) + 1)):
            logger.info("%s: category ids become 0..%d", json_file, len(id_map) - 1)
        names = {c["id"]: c["name"] for c in content["categories"]}
        MetadataCatalog.get(dataset_name).set(
            thing_classes=[names[k] for k in id_map],
            thing_dataset_id_to_contiguous_id=id_map,
        )

    records = _records_of(content["images"], image_root, json_file)
    _check_annotations(content["annotations"], records, id_map, json_file)
    keys = ["iscrowd", "bbox", "category_id", *(extra_annotation_keys or ())]
    num_dropped = 0
    for anno in content["annotations"]:
        instance = {key: anno[key] for key in keys if key in anno}
        if anno.get("segmentation"):
            instance["segmentation"] = _usable_segmentation(anno, json_file)
            if not instance["segmentation"]:
                num_dropped += 1
                continue
        instance["bbox_mode"] = BoxMode.XYWH_ABS
        if dataset_name is not None:
            instance["category_id"] = id_map[anno["category_id"]]
        records[anno["image_id"]]["annotations"].append(instance)
    if num_dropped:
        logger.warning(
            "%s: dropped %d instances that had no polygon of at least 3 points",
            json_file,
            num_dropped,
        )
    logger.info("Loaded %d images in COCO format from %s", len(records), json_file)
    return list(records.values())


def register_coco_instances(
    name: str, metadata: dict[str, Any], json_file: str, image_root: str
) -> None:
    """Register a COCO-format dataset; the file is read when the dataset is first used.

    Args:
        name: to be used in configs.
        metadata: more metadata, may be empty.
        json_file: path of the annotations.
        image_root: folder of the images.
    """
    json_file, image_root = os.fspath(json_file), os.fspath(image_root)
    DatasetCatalog.register(name, functools.partial(load_coco_json, json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata
    )


def _read_json(json_file: str) -> dict:
    try:
        with PathManager.open(json_file, "r") as f:
            content = json.load(f)
    except FileNotFoundError as e:
        raise FileNotFoundError(
            f"there is no annotation file {json_file}; builtin datasets are looked for under the "
            "folder in the environment variable DETECTRON2_DATASETS (default: ./datasets)"
        ) from e
    except ValueError as e:  # also what a wrong encoding raises
        raise ValueError(f"{json_file} is not valid JSON: {e}") from e
    if not isinstance(content, dict):
        raise ValueError(
            f"{json_file} is not in COCO's instance format: it holds a "
            f"{type(content).__name__}, not a dict (a list is the format of results)"
        )
    missing = [k for k in ("images", "annotations", "categories") if k not in content]
    if missing:
        raise ValueError(
            f"{json_file} is not in COCO's instance format: no {', '.join(missing)} "
            f"(it has {', '.join(content) or 'nothing'}). Images without ground truth need "
            "an empty list of annotations"
        )
    return content


def _id_map_of(categories: list[dict], json_file: str) -> dict[int, int]:
    """Category id -> 0..K-1, by ascending id."""
    _check_keys(categories, ("id", "name"), "category", json_file)
    ids = sorted(c["id"] for c in categories)
    _check_unique(ids, "category", json_file)
    return {category_id: i for i, category_id in enumerate(ids)}


def _records_of(images: list[dict], image_root: str, json_file: str) -> dict[int, dict]:
    """Image id -> dict of the image without annotations, by ascending id."""
    _check_keys(images, ("id", "file_name", "height", "width"), "image", json_file)
    _check_unique([im["id"] for im in images], "image", json_file)
    return {
        im["id"]: {
            "file_name": os.path.join(image_root, im["file_name"]),
            "height": im["height"],
            "width": im["width"],
            "image_id": im["id"],
            "annotations": [],
        }
        for im in sorted(images, key=lambda im: im["id"])
    }


def _check_annotations(
    annotations: list[dict], records: dict[int, dict], id_map: dict[int, int], json_file: str
) -> None:
    _check_keys(annotations, ("id", "image_id", "category_id", "bbox"), "annotation", json_file)
    for anno in annotations:
        problem = None
        if anno["image_id"] not in records:
            problem = (
                f"is of image_id {anno['image_id']}, which is not among the images; "
                "add the image or remove the annotation"
            )
        elif anno["category_id"] not in id_map:
            problem = (
                f"is of category_id {anno['category_id']}, which is not among the categories "
                f"{_abridged(list(id_map))}; correct it or add the category"
            )
        elif len(anno["bbox"]) != 4:
            problem = f"has bbox {anno['bbox']}; a box is [x, y, width, height]"
        elif anno.get("ignore", 0):
            problem = "has 'ignore' set, which is not supported; use iscrowd or remove it"
        if problem is not None:
            raise ValueError(f"{json_file}: annotation {anno['id']} {problem}")
    _check_unique([a["id"] for a in annotations], "annotation", json_file)


def _check_keys(items: list[dict], keys: tuple[str, ...], what: str, json_file: str) -> None:
    for i, item in enumerate(items):
        missing = [k for k in keys if k not in item]
        if missing:
            raise ValueError(
                f"{json_file}: {what} {item.get('id', f'number {i}')} has no "
                f"{', '.join(missing)}; each needs {', '.join(keys)}"
            )


def _check_unique(ids: list[int], what: str, json_file: str) -> None:
    if len(set(ids)) < len(ids):
        repeated = [k for k, n in Counter(ids).items() if n > 1]
        raise ValueError(
            f"{json_file}: {len(repeated)} {what} ids occur more than once: "
            f"{_abridged(repeated)}; give every {what} an id of its own"
        )


def _abridged(values: list) -> str:
    return ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")


def _usable_segmentation(anno: dict, json_file: str) -> list[list[float]] | dict:
    """The polygons with at least 3 points (perhaps none), or the RLE in compressed form."""
    segm = anno["segmentation"]
    if isinstance(segm, list):
        return [polygon for polygon in segm if len(polygon) % 2 == 0 and len(polygon) >= 6]
    if not isinstance(segm, dict) or not {"size", "counts"} <= segm.keys():
        raise ValueError(
            f"{json_file}: annotation {anno['id']} has a segmentation that is neither a list of "
            "polygons nor an RLE dict of 'size' and 'counts'"
        )
    if isinstance(segm["counts"], list):
        return mask_util.frPyObjects(segm, *segm["size"])
    return segm
