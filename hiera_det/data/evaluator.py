"""COCO evaluator (average precision) for files that lack what COCO's own always have."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import detectron2.evaluation
import pycocotools.mask as mask_util

from .cocoeval import fastest_cocoeval, has_plain_ids
from .rle import as_rle

__all__ = ["COCOEvaluator", "complete_ground_truth"]

COCO_MAX_DETS = 100  # detections an image that count


class COCOEvaluator(detectron2.evaluation.COCOEvaluator):
    """Detectron2's COCOEvaluator, whose ground truth is completed in memory.

    Scoring needs `area` and `iscrowd` of every annotation, and takes the annotation id 0 for
    "no match"; training needs none of that, and many tools that write COCO's format leave it out.
    Here `iscrowd` is 0 where it is missing, `area` that of the mask (of the box where there is
    none), and annotations are numbered from 1. The file stays as it is, and a complete one gives
    the same numbers. They come from hotcoco, faster-coco-eval or pycocotools, whichever is
    installed and takes the data, in this order: see `hiera_det.data.cocoeval`.

    Args:
        dataset_name, ...: as Detectron2's.
    """

    def __init__(self, dataset_name: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset_name, *args, **kwargs)
        complete_ground_truth(self._coco_api.dataset)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            self._coco_api.createIndex()
        limit = kwargs.get("max_dets_per_image")
        self._limit = COCO_MAX_DETS if limit is None else limit
        self._only_pycocotools = ""
        if not kwargs.get("use_fast_impl", True):
            self._only_pycocotools = "use_fast_impl is False"
        elif not has_plain_ids(self._coco_api.dataset):
            self._use_fast_impl = False
            self._only_pycocotools = "the others take no ids but whole numbers from 0"

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict[str, Any]:
        with fastest_cocoeval(self._limit, only_pycocotools=self._only_pycocotools):
            return super().evaluate(img_ids)


def complete_ground_truth(dataset: dict) -> None:
    """Fills in, in place, what `COCOEvaluator` says; dataset: the content of a COCO file."""
    images = {image["id"]: image for image in dataset["images"]}
    for k, annotation in enumerate(dataset.get("annotations", ()), 1):
        annotation["id"] = k
        annotation.setdefault("iscrowd", 0)
        area = annotation.get("area")
        if not isinstance(area, (int, float)) or not 0 <= area < float("inf"):
            annotation["area"] = _area(annotation, images[annotation["image_id"]])


def _area(annotation: dict, image: dict) -> float:
    """Pixels of the mask, or of the box where there is none."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        _, _, width, height = annotation["bbox"]
        return float(width * height)
    return float(mask_util.area(as_rle(segmentation, image["height"], image["width"])))
