"""Parity of an exported file with the model it was made of, on images."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from detectron2.structures import Instances

__all__ = ["DetectionParity", "MapParity"]

MAPS, BOXES, SCORES, MASK_IOU = 1e-4, 0.1, 1e-3, 0.99  # what is allowed; boxes in px
FAR = 1.0  # px; boxes that differ by more are different detections


@dataclass
class MapParity:
    """The largest difference of feature maps."""

    images: int = 0
    difference: float = 0.0

    def add(self, expected: Iterable[np.ndarray], found: Iterable[np.ndarray]) -> None:
        """Maps of one image, in the same order."""
        self.images += 1
        for a, b in zip(expected, found, strict=True):
            if a.shape != b.shape:
                raise ValueError(f"a map of shape {b.shape} instead of {a.shape}")
            self.difference = _worse(self.difference, np.abs(a - b).max())

    @property
    def holds(self) -> bool:
        return self.images > 0 and self.difference <= MAPS

    def __str__(self) -> str:
        return f"{self.images} images: maps differ by {self.difference:.1e} at most (limit {MAPS})"


@dataclass
class DetectionParity:
    """The largest differences of detections that belong together, and how many have no partner.

    A detection without a partner counts if its score is clear of the threshold and, in an image
    that is full, of the lowest score kept: there the last bit of a score decides.
    """

    threshold: float
    max_detections: int
    images: int = 0
    detections: int = 0
    boxes: float = 0.0  # px
    scores: float = 0.0
    mask_iou: float = 1.0
    at_threshold: int = 0
    unmatched: list[str] = field(default_factory=list)

    def add(self, name: str, expected: Instances, found: Instances) -> None:
        """Detections of one image, both in its pixels."""
        self.images += 1
        self.detections += len(expected)
        pairs, alone = match(expected, found)
        for instances, rows in ((expected, alone[0]), (found, alone[1])):
            full = len(instances) >= self.max_detections
            lowest = float(instances.scores.min()) if full else self.threshold
            for row in rows:
                score = float(instances.scores[row])
                if score <= lowest + SCORES:
                    self.at_threshold += 1
                else:
                    who = "model" if instances is expected else "file"
                    self.unmatched.append(f"{name} ({who} alone, score {score:.3f})")
        for a, b in pairs:
            one, other = expected[a], found[b]
            self.boxes = _worse(
                self.boxes, (one.pred_boxes.tensor - other.pred_boxes.tensor).abs().max()
            )
            self.scores = _worse(self.scores, (one.scores - other.scores).abs().max())
            if one.has("pred_masks"):
                self.mask_iou = -_worse(-self.mask_iou, -_iou(one.pred_masks, other.pred_masks))

    @property
    def holds(self) -> bool:
        close = self.boxes <= BOXES and self.scores <= SCORES and self.mask_iou >= MASK_IOU
        return self.images > 0 and close and not self.unmatched

    def __str__(self) -> str:
        text = (
            f"{self.images} images, {self.detections} detections: boxes differ by {self.boxes:.1e} "
            f"px at most (limit {BOXES}), scores by {self.scores:.1e} (limit {SCORES}), masks have "
            f"an IoU of {self.mask_iou:.4f} at least (limit {MASK_IOU})"
        )
        if self.at_threshold:
            text += f"; {self.at_threshold} at the score threshold on one side alone"
        if self.unmatched:
            text += f"; {len(self.unmatched)} without a partner, as {self.unmatched[0]}"
        return text


def match(
    expected: Instances, found: Instances
) -> tuple[list[tuple[int, int]], tuple[list[int], list[int]]]:
    """Pairs (row of `expected`, row of `found`) of one class and nearest boxes, and rows left over
    of each."""
    boxes = expected.pred_boxes.tensor, found.pred_boxes.tensor
    distance = (boxes[0][:, None] - boxes[1][None]).abs().amax(dim=2)  # (N, M), px
    same = expected.pred_classes[:, None] == found.pred_classes[None]
    candidates = ((distance <= FAR) & same).nonzero()
    order = distance[candidates[:, 0], candidates[:, 1]].argsort()
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for a, b in candidates[order].tolist():
        if a not in pairs and b not in taken:
            pairs[a] = b
            taken.add(b)
    alone = [a for a in range(len(expected)) if a not in pairs]
    return list(pairs.items()), (alone, [b for b in range(len(found)) if b not in taken])


def _iou(a, b) -> float:
    """Of two masks bool (1, H, W); 1 if they differ in one pixel at most, which is more than 1 % of
    a mask of under 100 px."""
    different = (a ^ b).sum().item()
    return 1 - different / (a | b).sum().item() if different > 1 else 1.0


def _worse(worst: float, value) -> float:
    """The larger; NaN once there is one, which no limit allows."""
    value = float(value)
    return value if not value <= worst else worst
