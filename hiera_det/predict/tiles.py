"""Detection on large images by overlapping tiles, whose detections are merged in mask space.

Small objects keep their pixels, which an image resized to the input of the model would lose. The
views are the tiles and, once, the whole image made as small as a tile, for objects larger than one.

* A detection that its tile cuts, while another tile shows all of it, is left to that one; and so
  is one of the whole image, which is coarse.
* Two detections of a class from two views are one object if their masks agree where both views
  see: their IoU within the overlap of the two views. IoU of the whole masks would be small for two
  halves of an object; touching neighbours have none.
* Of an object's detections, one that saw it whole speaks for it, the best one; otherwise it is the
  union of the pieces, with what the whole image shows where no tile has a piece. Its score is the
  highest.

Models without masks are merged by their boxes in the same way.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from tqdm import tqdm

from .cropped_masks import CroppedMasks, MaskCrop

__all__ = ["predict_tiled"]

MIN_IOU = 0.3  # of two detections of an object, where both views see; of neighbours it is near 0
MIN_INSIDE = 0.8  # of a piece's mask, for it to be a part of what the whole image shows
COARSE = 2.0  # px of the small image: how well a box of it is known
BORDER = 0.02  # of a tile: a detection that ends nearer to its border is taken to be cut there


Box = tuple[float, float, float, float]  # x0, y0, x1, y1, in px of the image


class View(NamedTuple):
    """A rectangle of the image, in px, and whether it is the whole image made small."""

    x0: int
    y0: int
    x1: int
    y1: int
    is_small: bool = False


class Piece(NamedTuple):
    """A detection of a view, in px of the image.

    is_cut: its object may go on beyond the view. pixel: size of a pixel of the view.
    """

    view: View
    category: int
    score: float
    box: Box
    mask: MaskCrop | None
    is_cut: bool
    pixel: float


def predict_tiled(
    predictor: Any,
    image: np.ndarray,
    *,
    tile: int,
    overlap: float = 0.2,
    batch_size: int = 4,
) -> Instances:
    """Detections of a large image, found in its tiles.

    Args:
        predictor: a `Predictor`, or anything with its `predict_images`.
        image: uint8 (H, W, 3), RGB.
        tile: side of a tile in px; objects that fit into `overlap * tile` are seen whole by one.
        overlap: of neighbouring tiles, as a share of their side; a little more where that spreads
            the tiles evenly.
        batch_size: tiles shown to the predictor at a time.

    Returns:
        Instances of the image's size on the CPU, highest score first: `pred_boxes`, `scores`,
        `pred_classes` and, if the predictor gives masks, `pred_masks`, which are `CroppedMasks`.
        What the predictor says itself where the image is no larger than a tile.

    Raises:
        ValueError: `tile` or `overlap` is out of range.
    """
    if tile < 32:
        raise ValueError(f"tile={tile} px is too small to show anything: 32 at least")
    if not 4 * BORDER <= overlap < 1:
        raise ValueError(f"overlap={overlap:g} is no share of a tile: {4 * BORDER:g} to 1, as 0.2")
    height, width = image.shape[:2]
    if max(height, width) <= tile:
        return predictor.predict_images([image])[0]
    views = [
        View(x, y, min(x + tile, width), min(y + tile, height))
        for y in _starts(height, tile, overlap)
        for x in _starts(width, tile, overlap)
    ]
    views.append(View(0, 0, width, height, is_small=True))
    border = max(2.0, BORDER * tile)
    pieces: list[Piece] = []
    has_masks = False
    batches = [views[k : k + batch_size] for k in range(0, len(views), batch_size)]
    for batch in tqdm(batches, desc="tiles", leave=False, disable=None):
        found = predictor.predict_images([_pixels(image, view, tile) for view in batch])
        for view, instances in zip(batch, found, strict=True):
            pieces += _pieces(instances, view, (height, width), border)
            has_masks = instances.has("pred_masks")
    pieces = [p for p in pieces if not _is_left_to_another(p, views, (height, width), border)]
    pieces = _without_fragments(pieces)
    merged = [_merge(group) for group in _groups(pieces)]
    return _instances(merged, (height, width), has_masks)


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along a side of the image: evenly spread, the last one ends with it."""
    if length <= tile:
        return [0]
    step = max(1.0, tile * (1 - overlap))
    count = int(np.ceil((length - tile) / step)) + 1
    return np.linspace(0, length - tile, count).round().astype(int).tolist()


def _pixels(image: np.ndarray, view: View, tile: int) -> np.ndarray:
    """What the predictor is shown: uint8 (h, w, 3)."""
    part = image[view.y0 : view.y1, view.x0 : view.x1]
    if not view.is_small:
        return np.ascontiguousarray(part)
    scale = tile / max(part.shape[:2])
    size = [max(1, round(side * scale)) for side in (part.shape[1], part.shape[0])]
    return cv2.resize(part, size, interpolation=cv2.INTER_AREA)


def _pieces(
    instances: Instances, view: View, image_size: tuple[int, int], border: float
) -> Iterator[Piece]:
    """The detections of a view, in px of the image."""
    instances = instances.to("cpu")
    seen_height, seen_width = instances.image_size
    scale = np.array([(view.x1 - view.x0) / seen_width, (view.y1 - view.y0) / seen_height] * 2)
    boxes = instances.pred_boxes.tensor.numpy() * scale + [view.x0, view.y0, view.x0, view.y0]
    for k, box in enumerate(boxes.tolist()):
        mask = None
        if instances.has("pred_masks"):
            mask = MaskCrop.of(np.asarray(instances.pred_masks[k], dtype=bool))
            if view.is_small:
                mask = _enlarged(mask, scale[0], scale[1])
            if not mask.pixels.size:
                continue  # nothing to see, nor to merge by
            mask = mask._replace(y=mask.y + view.y0, x=mask.x + view.x0)
        yield Piece(
            view,
            int(instances.pred_classes[k]),
            float(instances.scores[k]),
            tuple(box),
            mask,
            not _shows(view, box, image_size, border),
            float(scale.max()),
        )


def _enlarged(crop: MaskCrop, scale_x: float, scale_y: float) -> MaskCrop:
    """A mask of the small image in px of the large one, its edge interpolated."""
    padded = np.pad(crop.pixels, 1).astype(np.float32)  # so that edges lie between pixels
    x0, y0 = (crop.x - 1) * scale_x, (crop.y - 1) * scale_y
    x1, y1 = x0 + padded.shape[1] * scale_x, y0 + padded.shape[0] * scale_y
    left, top, right, bottom = (round(v) for v in (x0, y0, x1, y1))
    large = cv2.resize(padded, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    # The padding may lie beyond the image.
    skip_y, skip_x = max(0, -top), max(0, -left)
    return MaskCrop.of(large[skip_y:, skip_x:] >= 0.5, top + skip_y, left + skip_x)


def _shows(view: View, box: Sequence[float], image_size: tuple[int, int], border: float) -> bool:
    """Whether a box lies in a view and ends before its borders, but for those of the image."""
    height, width = image_size
    return (
        (box[0] > view.x0 + border or view.x0 == 0)
        and (box[1] > view.y0 + border or view.y0 == 0)
        and (box[2] < view.x1 - border or view.x1 == width)
        and (box[3] < view.y1 - border or view.y1 == height)
    )


def _is_left_to_another(
    piece: Piece, views: Sequence[View], image_size: tuple[int, int], border: float
) -> bool:
    """Whether a tile shows all of what this view shows a part of, or coarsely."""
    if not piece.is_cut and not piece.view.is_small:
        return False
    return any(
        not view.is_small and view != piece.view and _shows(view, piece.box, image_size, border)
        for view in views
    )


def _without_fragments(pieces: list[Piece]) -> list[Piece]:
    """All but parts of what the whole image shows as one object, which they do not agree with.

    In a tile that shows a part of a large object alone, that part may be taken for anything.
    """
    large = [piece for piece in pieces if piece.view.is_small and piece.mask is not None]

    def is_fragment(piece: Piece, whole: Piece) -> bool:
        if not piece.is_cut or piece.mask is None or whole.mask is None:
            return False
        inside = _intersection(whole.mask, piece.mask, piece.view)
        if inside < MIN_INSIDE * int(piece.mask.pixels.sum()):
            return False
        return piece.category != whole.category or _common_iou(piece, whole) < MIN_IOU

    return [p for p in pieces if not any(is_fragment(p, whole) for whole in large)]


def _groups(pieces: list[Piece]) -> list[list[Piece]]:
    """Pieces of one object each."""
    leader = list(range(len(pieces)))

    def find(k: int) -> int:
        while leader[k] != k:
            leader[k] = leader[leader[k]]
            k = leader[k]
        return k

    boxes = np.array([piece.box for piece in pieces]).reshape(-1, 4)
    categories = np.array([piece.category for piece in pieces])
    for k, piece in enumerate(pieces):
        others = boxes[k + 1 :]
        near = (others[:, :2] < boxes[k, 2:]).all(axis=1) & (others[:, 2:] > boxes[k, :2]).all(
            axis=1
        )
        near &= categories[k + 1 :] == piece.category
        for j in (np.flatnonzero(near) + k + 1).tolist():
            if pieces[j].view != piece.view and _common_iou(piece, pieces[j]) >= MIN_IOU:
                leader[find(j)] = find(k)
    groups: dict[int, list[Piece]] = {}
    for k, piece in enumerate(pieces):
        groups.setdefault(find(k), []).append(piece)
    return list(groups.values())


def _common_iou(first: Piece, second: Piece) -> float:
    """IoU of two detections within what both of their views see."""
    a, b = first.view, second.view
    common = View(max(a.x0, b.x0), max(a.y0, b.y0), min(a.x1, b.x1), min(a.y1, b.y1))
    if common.x0 >= common.x1 or common.y0 >= common.y1:
        return 0.0
    if first.mask is not None and second.mask is not None:
        edges = common.y0, common.x0, common.y1, common.x1
        areas: float = sum(int(m.window(*edges).sum()) for m in (first.mask, second.mask))
        shared: float = _intersection(first.mask, second.mask, common)
    else:
        low, high = np.array([common[:2]] * 2), np.array([common[2:4]] * 2)
        boxes = np.array([first.box, second.box])
        starts, ends = np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high)  # (2, 2)
        areas = float((ends - starts).clip(0).prod(axis=1).sum())
        shared = float((ends.min(axis=0) - starts.max(axis=0)).clip(0).prod())
    return shared / (areas - shared) if areas > shared else 0.0


def _intersection(first: MaskCrop, second: MaskCrop, within: View) -> int:
    """Pixels of both masks in a rectangle of the image."""
    a, b = first.box(), second.box()
    x0, y0 = max(a[0], b[0], within.x0), max(a[1], b[1], within.y0)
    x1, y1 = min(a[2], b[2], within.x1), min(a[3], b[3], within.y1)
    if x0 >= x1 or y0 >= y1:
        return 0
    return int((first.window(y0, x0, y1, x1) & second.window(y0, x0, y1, x1)).sum())


def _merge(group: list[Piece]) -> Piece:
    """One detection of those of an object."""
    score = max(piece.score for piece in group)
    fine = [piece for piece in group if not piece.view.is_small]
    coarse = [piece for piece in group if piece.view.is_small]
    whole = [piece for piece in fine if not piece.is_cut]
    if whole or len(group) == 1:
        return max(whole or group, key=lambda piece: piece.score)._replace(score=score)
    first = group[0]._replace(score=score)
    masks = [piece.mask for piece in fine if piece.mask is not None]
    for piece in coarse:
        # It counts where no tile has seen the object: there its mask is better.
        if piece.mask is not None:
            masks.append(_without(piece.mask, [p.view for p in fine]))
    if not masks:
        return first._replace(box=_outer_box(fine, coarse))
    mask = _union(masks)
    x0, y0, x1, y1 = mask.box()
    return first._replace(box=(float(x0), float(y0), float(x1), float(y1)), mask=mask)


def _without(mask: MaskCrop, views: Sequence[View]) -> MaskCrop:
    """A mask cleared in some rectangles of the image; its crop stays as large."""
    pixels = mask.pixels.copy()
    for view in views:
        rows = slice(max(0, view.y0 - mask.y), max(0, view.y1 - mask.y))
        pixels[rows, max(0, view.x0 - mask.x) : max(0, view.x1 - mask.x)] = False
    return mask._replace(pixels=pixels)


def _union(masks: Sequence[MaskCrop]) -> MaskCrop:
    edges = np.array([mask.box() for mask in masks])
    (x, y), (right, bottom) = edges[:, :2].min(axis=0).tolist(), edges[:, 2:].max(axis=0).tolist()
    union = np.zeros((bottom - y, right - x), dtype=bool)
    for mask in masks:
        height, width = mask.pixels.shape
        union[mask.y - y : mask.y - y + height, mask.x - x : mask.x - x + width] |= mask.pixels
    return MaskCrop.of(union, y, x)


def _outer_box(fine: list[Piece], coarse: list[Piece]) -> Box:
    """Around boxes; sides of the coarse ones count where they lie clearly further out."""
    sides = [
        max((-p.box[0], -p.box[1], p.box[2], p.box[3])[k] for p in fine or coarse) for k in range(4)
    ]
    for piece in coarse:
        out = (-piece.box[0], -piece.box[1], piece.box[2], piece.box[3])
        sides = [b if b > a + COARSE * piece.pixel else a for a, b in zip(sides, out, strict=True)]
    return -sides[0], -sides[1], sides[2], sides[3]


def _instances(pieces: list[Piece], image_size: tuple[int, int], has_masks: bool) -> Instances:
    pieces = sorted(pieces, key=lambda piece: -piece.score)
    result = Instances(image_size)
    result.pred_boxes = Boxes(torch.tensor([p.box for p in pieces]).reshape(-1, 4).float())
    result.scores = torch.tensor([p.score for p in pieces]).float()
    result.pred_classes = torch.tensor([p.category for p in pieces], dtype=torch.int64)
    if has_masks:
        crops = [piece.mask for piece in pieces if piece.mask is not None]  # which all have
        result.pred_masks = CroppedMasks(crops, image_size)
    return result
