import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pretrain.targets import hog_labels, patch_statistics, patchify, pixel_labels, unpatchify


def test_patchify_and_its_inverse():
    images = torch.randn(2, 3, 64, 96)
    patches = patchify(images)
    assert patches.shape == (2, 24, 768)
    # row 1, column 2 of 4x6 patches; channel first within a patch
    assert_close(patches[1, 8], images[1, :, 16:32, 32:48].flatten())
    assert_close(unpatchify(patches, (64, 96)), images)


def test_pixel_labels_are_normalised_and_undone_by_the_statistics():
    images = 3 + 2 * torch.randn(2, 3, 64, 64)
    labels = pixel_labels(images)
    assert_close(labels.mean(dim=2), torch.zeros(2, 16), atol=1e-5, rtol=0)
    assert_close(labels.var(dim=2), torch.ones(2, 16), atol=1e-4, rtol=0)
    mean, deviation = patch_statistics(patchify(images))
    assert_close(unpatchify(labels * deviation + mean, (64, 64)), images)


def slow_hog(image: np.ndarray) -> np.ndarray:
    """One channel (H, W) to histograms (H / 8, W / 8, 9), pixel by pixel."""
    height, width = image.shape
    padded = np.pad(image, 1, mode="reflect")
    cells = np.zeros((height // 8, width // 8, 9))
    for y in range(height):
        for x in range(width):
            w = padded[y : y + 3, x : x + 3]
            gx = w[0, 0] + 2 * w[1, 0] + w[2, 0] - w[0, 2] - 2 * w[1, 2] - w[2, 2]
            gy = w[0, 0] + 2 * w[0, 1] + w[0, 2] - w[2, 0] - 2 * w[2, 1] - w[2, 2]
            turn = math.atan2(gy, gx) / math.pi * 9 + 1 / 8
            cells[y // 8, x // 8, math.floor(turn) % 9] += math.hypot(gx, gy)
    return cells / np.linalg.norm(cells, axis=2, keepdims=True)


def test_hog_labels_equal_a_slow_reference():
    images = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    labels = hog_labels(images)
    assert labels.shape == (2, 6, 3 * 9 * 4)
    patches = labels.unflatten(2, (3, 9, 2, 2))  # channel, bin, row and column of the cell
    for channel in range(3):
        expected = torch.from_numpy(slow_hog(images[1, channel].numpy()))
        found = patches[1, :, channel].unflatten(0, (2, 3))  # (rows, columns, bin, row, column)
        found = found.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
        assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("scale, shift", [(2.0, 0.0), (1.0, 5.0), (0.1, -3.0)])
def test_hog_labels_do_not_depend_on_contrast(scale, shift):
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert_close(hog_labels(images * scale + shift), hog_labels(images))


def test_hog_of_a_flat_image_is_zero():
    assert not hog_labels(torch.ones(1, 3, 32, 32)).any()
