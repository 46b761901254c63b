"""Datasets in COCO's instance annotation format."""

import functools
import json
import logging
import os
import time
from collections import defaultdict
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
    """Load a COCO-format JSON. What is wrong in it is for ``hiera_det.data`` to say.

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
        instance of which none is left, too; so are annotations of images that are not there.
    """
    start = time.perf_counter()
    with PathManager.open(json_file, "r") as f:
        content = json.load(f)
    logger.info("Loaded %s in %.2f seconds", json_file, time.perf_counter() - start)

    categories = {c["id"]: c["name"] for c in content["categories"]}
    id_map = {category_id: i for i, category_id in enumerate(sorted(categories))}
    if dataset_name is not None:
        if list(id_map) != list(range(1, len(id_map) + 1)):
            logger.info("%s: category ids become 0..%d", json_file, len(id_map) - 1)
        MetadataCatalog.get(dataset_name).set(
            thing_classes=[categories[k] for k in id_map],
            thing_dataset_id_to_contiguous_id=id_map,
        )

    annotations = content.get("annotations", [])
    ids = {anno["id"] for anno in annotations}
    assert len(ids) == len(annotations), f"{json_file}: an annotation id occurs more than once"
    keys = ["iscrowd", "bbox", "category_id", *(extra_annotation_keys or ())]
    by_image: dict[int, list[dict]] = defaultdict(list)
    num_dropped = 0
    for anno in annotations:
        assert not anno.get("ignore", 0), f"{json_file}: 'ignore' of COCO annotations is not read"
        instance = {key: anno[key] for key in keys if key in anno}
        if anno.get("segmentation"):
            instance["segmentation"] = _usable_segmentation(anno["segmentation"])
            if not instance["segmentation"]:
                num_dropped += 1
                continue
        instance["bbox_mode"] = BoxMode.XYWH_ABS
        if dataset_name is not None:
            instance["category_id"] = id_map[anno["category_id"]]
        by_image[anno["image_id"]].append(instance)
    if num_dropped:
        logger.warning(
            "%s: dropped %d instances that had no polygon of at least 3 points",
            json_file,
            num_dropped,
        )
    images = {im["id"]: im for im in content["images"]}
    logger.info("Loaded %d images in COCO format from %s", len(images), json_file)
    return [
        {
            "file_name": os.path.join(image_root, images[k]["file_name"]),
            "height": images[k]["height"],
            "width": images[k]["width"],
            "image_id": k,
            "annotations": by_image[k],
        }
        for k in sorted(images)
    ]


def _usable_segmentation(segm: list[list[float]] | dict) -> list[list[float]] | dict:
    """The polygons with at least 3 points (perhaps none), or the RLE in compressed form."""
    if isinstance(segm, dict):
        is_compressed = not isinstance(segm["counts"], list)
        return segm if is_compressed else mask_util.frPyObjects(segm, *segm["size"])
    return [polygon for polygon in segm if len(polygon) % 2 == 0 and len(polygon) >= 6]


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
