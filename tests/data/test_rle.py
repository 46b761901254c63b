"""Run-length codes of masks, against pycocotools and against random text."""

import random

import numpy as np
import pytest
from pycocotools import mask as mask_util

from hiera_det.data.rle import encode_mask, rle_runs


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (40, 60), (300, 500)])
def test_runs_are_those_that_pycocotools_wrote(shape):
    rng = np.random.default_rng(0)
    for density in (0.0, 0.02, 0.5, 0.98, 1.0):
        mask = np.asfortranarray(rng.random(shape) < density, dtype=np.uint8)
        mask[: shape[0] // 2] = 0  # long runs beside short ones
        code = mask_util.encode(np.asfortranarray(mask))
        for counts in (code["counts"], code["counts"].decode()):
            runs = rle_runs({"size": list(shape), "counts": counts})
            plain = {"size": list(shape), "counts": runs.tolist()}
            assert np.array_equal(rle_runs(plain), runs)
            again = mask_util.frPyObjects(plain, *shape)
            assert np.array_equal(mask_util.decode(again), mask)
            values = np.repeat(np.arange(len(runs)) % 2, runs).reshape(shape, order="F")
            assert np.array_equal(values, mask)


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ("", "empty"),
        (b"", "empty"),
        ("~", "not COCO's"),
        ("\x00", "not COCO's"),
        ("é", "not COCO's"),
        ("P", "cut short"),
        ("ooooooooooooo0", "larger than any image"),
        ("1" * 3, "add up to 3, "),
        ("0O", "negative"),
        ([600.0], "whole number"),
        ([True] * 600, "whole number"),
        (["600"], "whole number"),
        ([[600]], "whole number"),
        ([-1, 601], "whole number"),
        ([2**70], "whole number"),
        ([599], "add up to 599"),
        (None, "an RLE is"),
    ],
)
def test_what_pycocotools_must_not_see(counts, problem):
    with pytest.raises(ValueError, match=problem):
        rle_runs({"size": [20, 30], "counts": counts})


@pytest.mark.parametrize(
    "size", [None, 20, [20], [20, 30, 1], [20.0, 30], [-20, -30], [0, 30], "x"]
)
def test_bad_sizes(size):
    with pytest.raises(ValueError, match="an RLE is|no height and width"):
        rle_runs({"size": size, "counts": [600]})


def test_random_text_is_refused_or_means_the_same_to_pycocotools():
    rng = random.Random(0)
    good = mask_util.encode(np.asfortranarray(np.eye(20, 30, dtype=np.uint8)))["counts"]
    verdicts = {"good": 0, "bad": 0}
    for _ in range(3000):
        text = bytearray(good)
        for _ in range(rng.randrange(3)):
            action, at = rng.random(), rng.randrange(len(text))
            if action < 0.4:
                text[at] = rng.randrange(48, 112)
            elif action < 0.6:
                del text[at]
            else:
                text[at], text[at - 1] = text[at - 1], text[at]
        rle = {"size": [20, 30], "counts": bytes(text)}
        try:
            runs = rle_runs(rle)
        except ValueError:
            verdicts["bad"] += 1
            continue
        verdicts["good"] += 1
        expected = np.repeat(np.arange(len(runs)) % 2, runs).reshape(20, 30, order="F")
        assert np.array_equal(mask_util.decode(rle), expected)
    assert min(verdicts.values()) > 300, verdicts


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (40, 60), (300, 500)])
def test_masks_are_encoded_as_pycocotools_does(shape):
    rng = np.random.default_rng(0)
    for density in (0.0, 0.02, 0.5, 0.98, 1.0):
        mask = rng.random(shape) < density
        for left, right in ((0, 0), (shape[1] // 3, 0), (0, shape[1] // 3), (2, 2)):
            mask[:, :left] = False
            mask[:, shape[1] - right :] = False
            code = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
            expected = {"size": code["size"], "counts": code["counts"].decode()}
            assert encode_mask(mask) == expected
    mask[:] = False
    mask[-1, 1:] = True  # ends in the last pixel of its last column
    code = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_mask(mask)["counts"] == code["counts"].decode()
