"""COCO's box and mask AP."""

import contextlib
import io
import itertools
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2 import absent_message
from detectron2.data.catalog import MetadataCatalog
from detectron2.evaluation.evaluator import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

try:  # the same numbers, faster
    from faster_coco_eval import COCOeval_faster as COCOeval_opt
except ImportError:
    COCOeval_opt = COCOeval

__all__ = ["COCOEvaluator", "instances_to_coco_json"]

logger = logging.getLogger(__name__)

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_AREAS = ("all", "small", "medium", "large")  # their order in COCOeval's arrays


class COCOEvaluator(DatasetEvaluator):
    """Average precision of boxes and masks by COCO's rules.

    Args:
        dataset_name: registered with ``register_coco_instances``.
        tasks: "bbox", "segm" or both. None takes what the predictions have, which without any
            prediction is "bbox" alone; name the tasks to have all of them reported in any case.
        distributed: collect the predictions of all processes in the main one. False scores what
            this process has.
        output_dir: where ``instances_predictions.pth`` and ``coco_instances_results.json`` (the
            format of COCO's server) are written, if given.
        max_dets_per_image: detections per image that count, by score; COCO's 100 by default.
        use_fast_impl: use ``faster_coco_eval`` instead of pycocotools where it is installed;
            the numbers are the same.
        allow_cached_coco: without effect here; only the conversion of datasets that have no
            COCO JSON would use a cache.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ) -> None:
        self._tasks = None if tasks is None else _checked_tasks(tasks)
        if kpt_oks_sigmas:
            raise NotImplementedError(absent_message("COCOEvaluator(kpt_oks_sigmas=...)"))
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets = 100 if max_dets_per_image is None else max_dets_per_image
        self._use_fast_impl = use_fast_impl

        metadata = MetadataCatalog.get(dataset_name)
        json_file = metadata.get("json_file")
        if json_file is None:
            raise ValueError(
                f"dataset {dataset_name!r} has no json_file in its metadata; COCOEvaluator scores "
                "datasets that were registered with register_coco_instances"
            )
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            self._coco_api = COCO(PathManager.get_local_path(json_file))
        self._coco_api.dataset.setdefault("info", {})  # COCO.loadRes copies it in some versions
        categories = sorted(self._coco_api.dataset["categories"], key=lambda c: c["id"])
        self._class_names = [c["name"] for c in categories]
        self._category_ids = [c["id"] for c in categories]
        self._predictions: list[dict] = []

    def reset(self) -> None:
        self._predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: dicts with ``image_id``.
            outputs: dicts with ``instances``, in coordinates of the original image:
                ``pred_boxes``, ``scores``, ``pred_classes`` and maybe ``pred_masks``.
        """
        for one_input, output in zip(inputs, outputs, strict=True):
            if "instances" not in output:
                raise NotImplementedError(absent_message("scoring anything but 'instances'"))
            instances = output["instances"].to(torch.device("cpu"))
            image_id = one_input["image_id"]
            self._predictions.append(
                {"image_id": image_id, "instances": instances_to_coco_json(instances, image_id)}
            )

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict[str, dict[str, float]]:
        """Score everything that was processed.

        Args:
            img_ids: score these images only; by default all images of the dataset.

        Returns:
            in the main process {"bbox": {"AP": ..., "AP50": ..., ..., "AP-<class>": ...},
            "segm": ...} in percent, nan where nothing can be measured; ``{}`` elsewhere.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            logger.warning("COCOEvaluator did not receive any predictions.")
            return {}
        results = list(itertools.chain(*(p["instances"] for p in predictions)))
        tasks = _tasks_of(results) if self._tasks is None else self._tasks
        if self._output_dir is not None:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, "instances_predictions.pth")
            with PathManager.open(path, "wb") as f:
                torch.save(predictions, f)
        # From here on categories have the ids of the dataset.
        results = [{**r, "category_id": self._category_ids[r["category_id"]]} for r in results]
        if self._output_dir is not None:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            logger.info("Saving results to %s", path)
            with PathManager.open(path, "w") as f:
                json.dump(results, f)
        return OrderedDict((task, self._score(results, task, img_ids)) for task in tasks)

    def _score(
        self, results: list[dict], task: str, img_ids: Sequence[int] | None
    ) -> dict[str, float]:
        if not results:
            logger.warning("No predictions from the model!")
            return dict.fromkeys(_METRICS, float("nan"))
        precision, recall, iou_thresholds = _match_and_accumulate(
            self._coco_api, results, task, self._max_dets, img_ids, self._use_fast_impl
        )
        _log_summary(task, precision, recall, iou_thresholds, self._max_dets)
        by_area = {area: precision[:, :, :, i, -1] for i, area in enumerate(_AREAS)}
        at = {round(float(t), 2): by_area["all"][i] for i, t in enumerate(iou_thresholds)}
        values = (
            by_area["all"],
            at[0.5],
            at[0.75],
            by_area["small"],
            by_area["medium"],
            by_area["large"],
        )
        metrics = dict(zip(_METRICS, map(_percent, values), strict=True))
        logger.info("Evaluation results for %s:\n%s", task, create_small_table(metrics))
        if not all(map(np.isfinite, metrics.values())):
            logger.info("Some metrics cannot be computed and are shown as nan.")
        if len(self._class_names) > 1:
            per_class = {
                name: _percent(by_area["all"][:, :, i]) for i, name in enumerate(self._class_names)
            }
            logger.info("Per-category %s AP:\n%s", task, _class_table(per_class))
            metrics.update({f"AP-{name}": ap for name, ap in per_class.items()})
        return metrics


def instances_to_coco_json(instances: Instances, img_id: int) -> list[dict[str, Any]]:
    """Predictions for one image in COCO's format for results.

    Args:
        instances: on the CPU, with ``pred_boxes``, ``scores``, ``pred_classes`` and maybe
            ``pred_masks``, bool (N, H, W).
        img_id: of the image in the dataset.

    Returns:
        one dict per instance: ``image_id``, ``category_id`` (still 0..K-1), ``bbox`` (XYWH),
        ``score``, and ``segmentation`` as RLE with a str, so that it goes into JSON.
    """
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    results = [
        {"image_id": img_id, "category_id": category, "bbox": box, "score": score}
        for category, box, score in zip(
            instances.pred_classes.tolist(), boxes.tolist(), instances.scores.tolist(), strict=True
        )
    ]
    if instances.has("pred_masks"):
        for result, mask in zip(results, instances.pred_masks, strict=True):
            rle = mask_util.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
            result["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("utf-8")}
    return results


def _checked_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    if "keypoints" in tasks:
        raise NotImplementedError(absent_message("COCOEvaluator(tasks=('keypoints',))"))
    if isinstance(tasks, str) or not tasks or not set(tasks) <= {"bbox", "segm"}:
        raise ValueError(f"tasks is a sequence of 'bbox' and 'segm', or None; got {tasks!r}")
    return tuple(tasks)


def _tasks_of(results: list[dict]) -> tuple[str, ...]:
    return ("bbox", "segm") if any("segmentation" in r for r in results) else ("bbox",)


def _match_and_accumulate(
    coco_gt: COCO,
    results: list[dict],
    task: str,
    max_dets: int,
    img_ids: Sequence[int] | None,
    use_fast_impl: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Returns:
        precision (T, R, K, A, M) and recall (T, K, A, M) over IoU thresholds, recall levels,
        categories, area ranges and detection limits, -1 where there is no ground truth; and the
        thresholds (T,).
    """
    if task == "segm":
        # With a box, loadRes would take the area of the box and not that of the mask.
        results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
    else:
        results = [dict(r) for r in results]  # loadRes adds keys
    cocoeval = COCOeval_opt if use_fast_impl else COCOeval
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        scorer = cocoeval(coco_gt, coco_gt.loadRes(results), task)
        scorer.params.maxDets = [1, 10, max_dets]
        if img_ids is not None:
            scorer.params.imgIds = list(img_ids)
        scorer.evaluate()
        scorer.accumulate()
    logger.info(
        "Evaluated %s of %d results in %.2f seconds, by %s",
        task,
        len(results),
        time.perf_counter() - start,
        type(scorer).__module__.partition(".")[0],
    )
    precision, recall = np.asarray(scorer.eval["precision"]), np.asarray(scorer.eval["recall"])
    return precision, recall, scorer.params.iouThrs


def _mean(values: np.ndarray) -> float:
    """Mean without the entries of -1, which have no ground truth; nan if none is left."""
    values = values[values > -1]
    return float(values.mean()) if values.size else float("nan")


def _percent(values: np.ndarray) -> float:
    return 100 * _mean(values)


def _log_summary(
    task: str,
    precision: np.ndarray,
    recall: np.ndarray,
    iou_thresholds: np.ndarray,
    max_dets: int,
) -> None:
    """The twelve numbers that COCO reports, in the layout of pycocotools."""
    at = {round(float(t), 2): i for i, t in enumerate(iou_thresholds)}
    rows = [("Precision", "0.50:0.95", "all", max_dets, precision[..., 0, -1])]
    rows += [
        ("Precision", f"{t:.2f}", "all", max_dets, precision[at[t], ..., 0, -1])
        for t in (0.5, 0.75)
    ]
    rows += [
        ("Precision", "0.50:0.95", area, max_dets, precision[..., i, -1])
        for i, area in enumerate(_AREAS[1:], start=1)
    ]
    rows += [
        ("Recall", "0.50:0.95", "all", limit, recall[..., 0, m])
        for m, limit in enumerate((1, 10, max_dets))
    ]
    rows += [
        ("Recall", "0.50:0.95", area, max_dets, recall[..., i, -1])
        for i, area in enumerate(_AREAS[1:], start=1)
    ]
    lines = [
        f" Average {what:<9} @[ IoU={iou:<9} | area={area:>6} | maxDets={limit:>3} ] = "
        f"{_mean(values):0.3f}"
        for what, iou, area, limit, values in rows
    ]
    logger.info("%s:\n%s", task, "\n".join(lines))


def _class_table(per_class: dict[str, float]) -> str:
    columns = min(6, 2 * len(per_class))
    cells = list(itertools.chain(*per_class.items()))
    rows = itertools.zip_longest(*[cells[i::columns] for i in range(columns)])
    return tabulate(
        rows,
        tablefmt="pipe",
        floatfmt=".3f",
        headers=["category", "AP"] * (columns // 2),
        numalign="left",
    )
