"""COCO's run-length code of a mask, checked before pycocotools sees it.

pycocotools trusts the code: an empty string decodes to whatever the memory held, and counts that do
not add up are written beyond the mask in some versions. The format is that of COCO's API: runs of
0 and 1 in turn, column by column, plain or as text of 6 bits a character.
"""

from typing import Any

import numpy as np
import pycocotools.mask as mask_util

__all__ = ["as_rle", "encode_mask", "labels_to_rles", "rle_runs"]

OFFSET = 48  # of the characters, "0"
MORE, SIGN, DIGIT = 0x20, 0x10, 0x1F  # bits of a character: another follows, negative, 5 of a value
MAX_CHARACTERS = 7  # of a number: 35 bits, more than the pixels of any image
MAX_SIDE = 1_000_000  # px


def rle_runs(rle: dict[str, Any]) -> np.ndarray:
    """The runs of an RLE, int64 (num_runs,): pixels of 0, of 1, of 0, ...

    Args:
        rle: 'size', [height, width], and 'counts', a list of runs or COCO's text of them.

    Raises:
        ValueError: what is wrong with it.
    """
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, (list, tuple)) or not isinstance(counts, (list, str, bytes)):
        raise ValueError("an RLE is {'size': [height, width], 'counts': [...] or a text}")
    if len(size) != 2 or not all(type(side) is int and 0 < side <= MAX_SIDE for side in size):
        raise ValueError(f"size {size!r:.40} is no height and width in px")
    num_pixels = size[0] * size[1]
    if isinstance(counts, list):
        if not all(type(run) is int and 0 <= run <= num_pixels for run in counts):
            raise ValueError("a count is not a whole number from 0 to the pixels of the mask")
        runs = np.array(counts, dtype=np.int64)
    else:
        runs = _decode(counts)
    total = int(runs.sum())
    if total != num_pixels:
        raise ValueError(f"the counts add up to {total}, {list(size)} is {num_pixels} pixels")
    return runs


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """The compressed RLE of a mask bool (H, W), with text for JSON; as pycocotools encodes it.

    Only the columns that hold something are looked at one by one: of an object on a photograph that
    takes two thirds of the time.
    """
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(axis=0))
    changes = np.zeros(0, dtype=np.int64)  # places where a run of other pixels begins
    if len(columns):
        first, end = int(columns[0]), int(columns[-1]) + 1
        # (H, end - first) -> (H * (end - first),), column by column
        pixels = mask[:, first:end].ravel(order="F")
        changes = np.flatnonzero(np.diff(pixels, prepend=False, append=False)) + first * height
    bounds = [0, *changes.tolist(), height * width]
    runs = [after - before for before, after in zip(bounds, bounds[1:], strict=False)]
    if len(runs) > 1 and runs[-1] == 0:  # the last pixel of all is of the mask
        runs.pop()
    return _as_text(runs, height, width)


def as_rle(segmentation: list | dict, height: int, width: int) -> dict[str, Any]:
    """A mask in any of COCO's forms as the compressed RLE that pycocotools computes with.

    Args:
        segmentation: polygons, lists of x, y in px; or an RLE, plain or compressed.
        height, width: of the image, px.
    """
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def _as_text(runs: list[int], height: int, width: int) -> dict[str, Any]:
    """Runs as a compressed RLE with text for JSON."""
    size = [height, width]
    counts = mask_util.frPyObjects({"size": size, "counts": runs}, height, width)["counts"]
    return {"size": size, "counts": counts.decode("ascii")}


def _decode(text: str | bytes) -> np.ndarray:
    """The runs in COCO's text: int64 (num_runs,)."""
    try:
        raw = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise ValueError("the counts hold a character that is not COCO's") from error
    codes = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - OFFSET  # (characters,)
    if not len(codes):
        raise ValueError("the counts are empty")
    if codes.min() < 0 or codes.max() > (MORE | DIGIT):
        raise ValueError("the counts hold a character that is not COCO's")
    ends = np.flatnonzero((codes & MORE) == 0)  # (num_runs,)
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise ValueError("the counts are cut short")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > MAX_CHARACTERS:
        raise ValueError("a count is larger than any image")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & DIGIT) << shifts, starts)
    values -= np.where(codes[ends] & SIGN, 1 << (5 * lengths), 0)
    # From the fourth on, a value is the difference from the run before the last.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if values.min() < 0:
        raise ValueError("a count is negative")
    return values


def labels_to_rles(labels: np.ndarray) -> dict[int, dict[str, Any]]:
    """The mask of every value of a label map but 0, in COCO's text; one pass, whatever their count.

    Args:
        labels: whole numbers (H, W), 0 is background.

    Returns:
        By value, {'size': [H, W], 'counts': text}; in the order of the values.
    """
    height, width = labels.shape
    flat = labels.T.reshape(-1)  # (H, W) -> (W * H,), column by column
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))  # of runs
    ends = np.append(starts[1:], len(flat))
    values = flat[starts]
    order = np.argsort(values, kind="stable")  # runs by value, each value's in their own order
    firsts = np.flatnonzero(np.concatenate([[True], np.diff(values[order]) != 0]))
    rles = {}
    for members in np.split(order, firsts[1:]):
        value = int(values[members[0]])
        if value == 0:
            continue
        # 0s up to each run, the run, ..., the 0s that are left: (2 * num_runs + 1,) or one less
        edges = np.stack([starts[members], ends[members]], axis=1).reshape(-1)
        rest = [len(flat)] if edges[-1] < len(flat) else []
        counts = np.diff(np.concatenate([[0], edges, rest]).astype(np.int64))
        rles[value] = _as_text(counts.tolist(), height, width)
    return rles
