"""Images of the gallery: which, as small JPEGs, with outlines of objects and detections."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from omegaconf import DictConfig
from PIL import Image

from hiera_det.data.images import read_image

from .detections import IGNORED, Matches, Truth
from .run_folder import select

__all__ = ["Ranked", "choose", "draw", "rank"]

SIDE = 480  # px of the longer side; outlines are in units of this grid, JPEGs no larger
MAX_IMAGES, NUM_BEST, NUM_RANDOM = 60, 9, 15  # the others are the worst
MAX_SHAPES = 400  # detections of an image
MAX_BYTES = 10 << 20  # of all images and outlines; a page has some more
QUALITY = 80


@dataclass
class Ranked:
    """An image and how well its objects are found at the score `threshold` of `rank`.

    Attributes:
        index: in the dataset.
        right, wrong, missed: detections on an object of their class, other detections, objects.
        group: "worst", "random" or "best", why it is shown.
    """

    index: int
    right: int
    wrong: int
    missed: int
    group: str = "worst"

    @property
    def f1(self) -> float:
        whole = 2 * self.right + self.wrong + self.missed
        return 2 * self.right / whole if whole else 1.0


def rank(matches: list[Matches], threshold: float) -> list[Ranked]:
    """All images, the worst first: the lowest F1, then the most mistakes."""
    ranked = []
    for index, m in enumerate(matches):
        kept = m.same_class[[d["score"] >= threshold for d in m.detections]]
        right, wrong = int((kept >= 0).sum()), int(((kept < 0) & (kept != IGNORED)).sum())
        num_objects = sum(not a["iscrowd"] for a in m.objects)
        ranked.append(Ranked(index, right, wrong, num_objects - right))
    return sorted(ranked, key=lambda r: (r.f1, -r.wrong - r.missed, r.index))


def choose(ranked: list[Ranked]) -> list[Ranked]:
    """At most MAX_IMAGES of them: the worst, some at random (the same each time), and the best."""
    if len(ranked) <= MAX_IMAGES:
        return ranked
    worst = ranked[: MAX_IMAGES - NUM_BEST - NUM_RANDOM]
    best = ranked[: -NUM_BEST - 1 : -1]
    between = ranked[len(worst) : len(ranked) - NUM_BEST]
    picked = np.random.default_rng(0).choice(len(between), min(NUM_RANDOM, len(between)), False)
    others = [between[k] for k in sorted(picked)]
    for group, members in (("random", others), ("best", best)):
        for member in members:
            member.group = group
    return [*worst, *others, *best]


def draw(
    chosen: list[Ranked], truth: Truth, matches: list[Matches], task: str, cfg: DictConfig
) -> tuple[list[dict[str, Any]], list[str]]:
    """What the page's script draws, and lines about what is left out.

    Returns:
        For each image its "name", "width" and "height" on the grid of SIDE, "src" (a data URI, ""
        if the file cannot be read), "group", "objects" as [class, is crowd, outline] and
        "detections" as [class, score, object, outline]; an outline is a list of polygons x, y, x, y
        …, "object" see `Matches.same_class`.
    """
    cards: list[dict[str, Any]] = []
    notes: list[str] = []
    unread: list[str] = []
    num_bytes = 0
    for ranked in chosen:
        entry, m = truth.content["images"][ranked.index], matches[ranked.index]
        path = truth.root / entry["file_name"]
        try:
            image = read_image(
                path,
                "RGB",
                select(cfg, "dataloader.intensity_range"),
                select(cfg, "dataloader.page"),
            )
            size = image.shape[:2]
        except (OSError, ValueError):
            image, size = None, (int(entry["height"]), int(entry["width"]))
            unread.append(str(path))
        scale = SIDE / max(size)
        is_shown = range(min(len(m.detections), MAX_SHAPES))
        card = {
            "name": str(entry["file_name"]),
            "width": round(size[1] * scale),
            "height": round(size[0] * scale),
            "src": "" if image is None else _data_uri(image),
            "group": ranked.group,
            "objects": [
                [
                    a["category_id"] - 1,
                    int(bool(a["iscrowd"])),
                    _truth_outline(truth, a, task, scale),
                ]
                for a in m.objects
            ],
            "detections": [
                [
                    m.detections[k]["category_id"] - 1,
                    round(m.detections[k]["score"], 3),
                    int(m.same_class[k]),
                    _outline(m.detections[k], task, scale),
                ]
                for k in is_shown
            ],
        }
        num_bytes += _size(card)
        if num_bytes > MAX_BYTES and cards:
            notes.append(
                f"The gallery stops after {len(cards)} of {len(chosen)} images, so that the page "
                f"stays below 15 MB."
            )
            break
        cards.append(card)
    if unread:
        notes.append(f"{len(unread)} images of the gallery cannot be read, as {unread[0]}.")
    return cards, notes


def _size(card: dict[str, Any]) -> int:
    """Bytes that a card takes in the page, about: 4 a number."""
    outlines = [row[-1] for row in card["objects"] + card["detections"]]
    return len(card["src"]) + 5 * sum(len(polygon) for o in outlines for polygon in o)


def _data_uri(image: np.ndarray) -> str:
    """A JPEG of uint8 (H, W, 3), no larger than SIDE."""
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _truth_outline(truth: Truth, annotation: dict, task: str, scale: float) -> list[list[int]]:
    if task == "segm":
        return _mask_outline(truth.coco.annToRLE(annotation), scale)
    return _box_outline(annotation["bbox"], scale)


def _outline(detection: dict, task: str, scale: float) -> list[list[int]]:
    if task == "segm":
        return _mask_outline(detection["segmentation"], scale)
    return _box_outline(detection["bbox"], scale)


def _box_outline(box: list[float], scale: float) -> list[list[int]]:
    x0, y0, width, height = box
    x0, y0, x1, y1 = (round(v * scale) for v in (x0, y0, x0 + width, y0 + height))
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def _mask_outline(rle: dict, scale: float) -> list[list[int]]:
    """Polygons around an RLE mask and its holes, in px of the grid."""
    mask = mask_util.decode(rle)  # uint8 (H, W)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    y0, x0 = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
    part = mask[y0 : rows[-1] + 2, x0 : columns[-1] + 2]  # with a border of one px
    height, width = (max(1, round(length * scale)) for length in part.shape)
    soft = cv2.resize(255 * part, (width, height), interpolation=cv2.INTER_LINEAR)
    padded = np.pad((soft >= 128).astype(np.uint8), 1)
    contours, _ = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    corner = np.array([round(x0 * scale) - 1, round(y0 * scale) - 1])
    polygons = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, 0.8, True)[:, 0] + corner  # (P, 1, 2) -> (P, 2)
        if len(points) >= 3:
            polygons.append(points.flatten().tolist())  # (P, 2) -> (2 P,)
    if not polygons:  # a speck on this grid: the square that it is
        x, y = round(x0 * scale), round(y0 * scale)
        return [[x, y, x + width, y, x + width, y + height, x, y + height]]
    return polygons
