"""COCO's metric by the fastest exact implementation that is installed.

hotcoco, faster-coco-eval and pycocotools give the same numbers (tests/data/test_cocoeval.py holds
all of them to 1e-9), up to tens of times apart in speed. Detectron2 takes its `COCOeval` by name
from the module `detectron2.evaluation.coco_evaluation`; `fastest_cocoeval` puts another one there
for the time of an evaluation, which both Detectron2s take.
"""

import contextlib
import importlib
import importlib.metadata
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import detectron2.evaluation.coco_evaluation as detectron2_module
import numpy as np
from pycocotools.cocoeval import COCOeval

__all__ = ["HotcocoEval", "fastest_cocoeval", "has_plain_ids", "make_cocoeval"]

logger = logging.getLogger(__name__)

NAMES = ("COCOeval", "COCOeval_opt", "COCOevalMaxDets")  # in Detectron2's module
MIN_MAX_DETS = 10  # the limits are 1, 10 and this one: below that hotcoco counts differently
LARGEST_ID = 2**53  # which a double holds

_hotcoco_pid: int | None = None  # of the process in which hotcoco began its threads


class HotcocoEval:
    """hotcoco's evaluation of two datasets of pycocotools, with the members of its `COCOeval`.

    Args:
        coco_gt, coco_dt: `pycocotools.coco.COCO`; coco_dt of its `loadRes`.
        iou_type: "bbox" or "segm".

    Raises:
        ValueError: what hotcoco does not take, as ids that are strings.
    """

    def __init__(self, coco_gt: Any, coco_dt: Any, iou_type: str) -> None:
        import hotcoco

        global _hotcoco_pid
        _hotcoco_pid = os.getpid()
        truth, detections = (hotcoco_dataset(coco.dataset) for coco in (coco_gt, coco_dt))
        self._eval = hotcoco.COCOeval(truth, detections, iou_type)
        self.params = self._eval.params
        self.stats = np.zeros(0)

    def evaluate(self) -> None:
        self._eval.evaluate()

    def accumulate(self) -> None:
        self._eval.accumulate()

    def tide_errors(self) -> dict[str, Any]:
        """hotcoco's, at an IoU of 0.5; after `evaluate`."""
        return self._eval.tide_errors()

    @property
    def eval(self) -> Any:
        """precision (T, R, K, A, M), recall (T, K, A, M) and scores, as pycocotools' `eval`."""
        return self._eval.eval

    def summarize(self) -> None:
        """Puts COCO's 12 numbers into `stats`, with the last of `params.maxDets` as the limit."""
        precision, recall = np.asarray(self.eval["precision"]), np.asarray(self.eval["recall"])
        thresholds = np.asarray(self.params.iouThrs)
        chosen = [precision[..., 0, -1]]
        chosen += [precision[np.isclose(thresholds, t)][..., 0, -1] for t in (0.5, 0.75)]
        chosen += [precision[..., area, -1] for area in (1, 2, 3)]
        chosen += [recall[..., 0, limit] for limit in (0, 1, 2)]
        chosen += [recall[..., area, -1] for area in (1, 2, 3)]
        self.stats = np.array([_mean(values) for values in chosen])


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]  # those with ground truth
    return float(np.mean(values)) if values.size else -1.0


def hotcoco_dataset(dataset: dict[str, Any]) -> Any:
    """A `hotcoco.COCO` of the content of a COCO file or of pycocotools' dataset of results.

    Only what the metric reads is taken over, so that nothing else in a file can be in the way.

    Raises:
        ValueError: what hotcoco does not take, as ids that are strings.
    """
    import hotcoco

    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "score")
    annotations = []
    for annotation in dataset.get("annotations", ()):
        kept = {key: annotation[key] for key in keys if key in annotation}
        segmentation = annotation.get("segmentation")
        if segmentation:
            if isinstance(segmentation, dict) and isinstance(segmentation["counts"], bytes):
                counts = segmentation["counts"].decode("ascii")  # pycocotools leaves these behind
                segmentation = {"size": list(segmentation["size"]), "counts": counts}
            kept["segmentation"] = segmentation
        annotations.append(kept)
    images = [
        {key: image[key] for key in ("id", "height", "width") if key in image}
        for image in dataset["images"]
    ]
    categories = [{"id": c["id"], "name": str(c.get("name", ""))} for c in dataset["categories"]]
    return hotcoco.COCO({"images": images, "annotations": annotations, "categories": categories})


def has_plain_ids(dataset: dict[str, Any]) -> bool:
    """Whether all ids are whole numbers that every implementation takes."""
    ids = [image["id"] for image in dataset["images"]]
    ids += [a[k] for a in dataset.get("annotations", ()) for k in ("image_id", "category_id")]
    ids += [category["id"] for category in dataset["categories"]]
    return all(type(value) is int and 0 <= value <= LARGEST_ID for value in ids)


@contextlib.contextmanager
def fastest_cocoeval(max_dets: int = 100, *, only_pycocotools: str = "") -> Iterator[None]:
    """Within it Detectron2 scores with the fastest exact implementation, which the log names.

    Args:
        max_dets: detections an image that count.
        only_pycocotools: why nothing but pycocotools will do, if so.
    """
    name, why = _choose(max_dets, only_pycocotools)
    substitutes = {"hotcoco": HotcocoEval, "faster-coco-eval": _faster_cocoeval}
    announced = False

    def announcing(original: Any) -> Callable[..., Any]:
        def make(*args: Any, **kwargs: Any) -> Any:
            nonlocal announced
            if not announced:
                text = _title(name, original)
                logger.info("COCO evaluation by %s%s", text, f" ({why})" if why else "")
                announced = True
            return substitutes.get(name, original)(*args, **kwargs)

        return make

    with contextlib.ExitStack() as stack:
        for attribute in NAMES:
            original = getattr(detectron2_module, attribute, None)
            if original is not None:
                patch = mock.patch.object(detectron2_module, attribute, announcing(original))
                stack.enter_context(patch)
        yield


def make_cocoeval(coco_gt: Any, coco_dt: Any, iou_type: str, max_dets: int = 100) -> Any:
    """The fastest evaluator for two `pycocotools.coco.COCO` with plain ids, limits set."""
    name, _ = _choose(max_dets, "")
    made = {"hotcoco": HotcocoEval, "faster-coco-eval": _faster_cocoeval}.get(name, COCOeval)
    evaluator = made(coco_gt, coco_dt, iou_type)
    evaluator.params.maxDets = [1, 10, max_dets]
    return evaluator


def _title(name: str, original: Any) -> str:
    """Name and version; a compiled Detectron2 has an implementation of its own."""
    if name == "pycocotools" and original.__name__ == "COCOeval_opt":
        return "Detectron2's COCOeval_opt"
    return f"{name} {importlib.metadata.version(name)}"


def _choose(max_dets: int, only_pycocotools: str) -> tuple[str, str]:
    """The name of a distribution, and why it is not the first choice where that is not plain."""
    if only_pycocotools:
        return "pycocotools", only_pycocotools
    why = ""
    if _is_installed("hotcoco"):
        if _hotcoco_pid not in (None, os.getpid()):
            why = "hotcoco's threads are not in a process that was forked after they began"
        elif max_dets >= MIN_MAX_DETS:
            return "hotcoco", ""
        else:
            why = f"hotcoco counts differently below {MIN_MAX_DETS} detections an image"
    return ("faster-coco-eval" if _is_installed("faster_coco_eval") else "pycocotools"), why


def _is_installed(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:  # also one that is there, and was built for another numpy
        return False
    return True


def _faster_cocoeval(*args: Any, **kwargs: Any) -> Any:
    return importlib.import_module("faster_coco_eval").COCOeval_faster(*args, **kwargs)
