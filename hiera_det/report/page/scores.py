"""Numbers of an evaluation: AP by class and size, precision and recall, confusion, TIDE."""

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiera_det.data.cocoeval import HotcocoEval, make_cocoeval

from .detections import IGNORED, NOTHING, Matches, Truth

__all__ = ["Confusion", "Scores", "best_threshold", "confusion", "score"]

SIZES = ("all", "small", "medium", "large")  # COCO's, in the order of its arrays
TIDE_NAMES = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")


@dataclass
class Scores:
    """COCO's metric of one task.

    Attributes:
        precision: (T, R, K, A): IoU thresholds 0.5 to 0.95, recall 0 to 1, classes, SIZES; -1
            where there are no objects.
        recall: (T, K, A), the highest that is reached.
        tide: AP50 in percent that each of TIDE_NAMES costs; None without hotcoco.
    """

    precision: np.ndarray
    recall: np.ndarray
    tide: dict[str, float] | None

    def ap(self, threshold: int | None = None, category: int | None = None, size: int = 0) -> float:
        """AP in percent, nan without objects.

        Args:
            threshold: 0 for IoU 0.5 to 9 for 0.95; None for the mean of all.
            category: its position; None for the mean of all.
            size: position in SIZES.
        """
        values = self.precision[:, :, :, size]
        values = values if threshold is None else values[threshold]
        return _percent(values if category is None else values[..., category])

    def ar(self, category: int | None = None) -> float:
        values = self.recall[:, :, 0]
        return _percent(values if category is None else values[:, category])

    def curve(self, threshold: int | None, category: int | None = None) -> list[float]:
        """Precision at recall 0, 0.01, ..., 1, mean of the classes that have objects; [] if none.

        Args:
            threshold, category: as in `ap`.
        """
        values = self.precision[:, :, :, 0]  # (T, R, K)
        values = values.mean(axis=0) if threshold is None else values[threshold]  # (R, K)
        values = values if category is None else values[:, [category]]
        values = values[:, (values > -1).all(axis=0)]
        return values.mean(axis=1).tolist() if values.size else []


def _percent(values: np.ndarray) -> float:
    values = values[values > -1]
    return 100 * float(values.mean()) if values.size else float("nan")


def score(truth: Truth, detections: list[dict], task: str, limit: int) -> Scores:
    """Scores detections, by the fastest evaluator that is installed.

    Args:
        truth, detections: of `page.detections`; one detection at least.
        task: "bbox" or "segm".
        limit: detections of an image that count.
    """
    if task == "segm":  # with a box, loadRes would take the area of the box
        results = [{k: v for k, v in d.items() if k != "bbox"} for d in detections]
    else:
        results = [{k: v for k, v in d.items() if k != "segmentation"} for d in detections]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        evaluator = make_cocoeval(truth.coco, truth.coco.loadRes(results), task, limit)
        evaluator.evaluate()
        evaluator.accumulate()
    precision = np.asarray(evaluator.eval["precision"])[..., -1]
    recall = np.asarray(evaluator.eval["recall"])[..., -1]
    return Scores(precision, recall, _tide(evaluator))


def _tide(evaluator: Any) -> dict[str, float] | None:
    """Bolya et al., TIDE (2020): the AP50 that would be won by repairing each kind of error."""
    if not isinstance(evaluator, HotcocoEval):
        return None
    lost = evaluator.tide_errors()["delta_ap"]
    return {name: 100 * float(lost[name]) for name in TIDE_NAMES}


def best_threshold(matches: list[Matches]) -> tuple[float, float]:
    """The score at which F1 of all detections is highest, in whole percent, and that F1.

    F1 is 2 TP / (detections + objects), at an IoU of 0.5; crowds do not count. (0.5, 0.0) where
    nothing is found.
    """
    num_objects = sum(sum(not a["iscrowd"] for a in m.objects) for m in matches)
    scores = np.array([d["score"] for m in matches for d in m.detections], dtype=float)
    found = np.concatenate([m.same_class for m in matches]) if matches else np.zeros(0, dtype=int)
    scores, found = scores[found != IGNORED], found[found != IGNORED]
    if not (found >= 0).any():
        return 0.5, 0.0
    levels = np.unique(np.floor(100 * scores + 1e-6)) / 100
    f1 = []
    for level in levels:
        is_kept = scores >= level
        f1.append(2 * (found[is_kept] >= 0).sum() / (is_kept.sum() + num_objects))
    best = int(np.argmax(f1))
    return float(levels[best]), float(f1[best])


@dataclass
class Confusion:
    """What objects were taken for.

    Attributes:
        counts: int (K + 1, K + 1): rows are the classes of objects, columns those of the
            detections; the last row is detections on no object, the last column objects that were
            missed.
        threshold: detections below this score do not count.
    """

    counts: np.ndarray
    threshold: float


def confusion(matches: list[Matches], num_classes: int, threshold: float) -> Confusion:
    """Counts, at an IoU of 0.5, what class each object was detected as."""
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=int)
    for m in matches:
        missed = [not a["iscrowd"] for a in m.objects]
        for detection, found in zip(m.detections, m.any_class, strict=True):
            if detection["score"] < threshold or found == IGNORED:
                continue
            column = detection["category_id"] - 1
            if found == NOTHING:
                counts[-1, column] += 1
            else:
                counts[m.objects[found]["category_id"] - 1, column] += 1
                missed[found] = False
        for annotation, is_missed in zip(m.objects, missed, strict=True):
            counts[annotation["category_id"] - 1, -1] += is_missed
    return Confusion(counts, threshold)
