"""Prediction targets of masked patches: normalised pixels, or HOG (gradient histograms).

Shape legend: B images, C channels, N patches of p x p px (p = 16) in raster order, P numbers of a
patch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PATCH_SIZE", "TARGETS", "hog_labels", "patchify", "pixel_labels", "unpatchify"]

PATCH_SIZE = 16  # px: the stride of the last stage without its q-pool
EPS = 1e-6  # added to the variance of a patch
HOG_BINS, HOG_CELL = 9, 8  # orientations in half a turn; px


def patchify(images: Tensor) -> Tensor:
    """(B, C, H, W) to (B, N, C * p * p), in the official order: channel, row, column.

    (facebookresearch/mae has row, column, channel: the same loss, another picture.)
    """
    return F.pixel_unshuffle(images, PATCH_SIZE).flatten(2).transpose(1, 2)  # (B, P, h, w)


def unpatchify(patches: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `patchify`, for images of `size` = (H, W) px."""
    height, width = size
    maps = patches.transpose(1, 2).unflatten(2, (height // PATCH_SIZE, width // PATCH_SIZE))
    return F.pixel_shuffle(maps, PATCH_SIZE)  # (B, C * p * p, h, w) -> (B, C, H, W)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each patch over all its numbers, (B, N, 1) each.

    The variance is the unbiased one. A patch that is one flat colour has a deviation of 0.001.
    """
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + EPS).sqrt()


def pixel_labels(images: Tensor) -> Tensor:
    """Pixels, normalised in each patch: (B, C, H, W) to (B, N, C * p * p).

    Predicting 0, the mean of each patch, has a loss of about 1.
    """
    patches = patchify(images)
    mean, deviation = patch_statistics(patches)
    return (patches - mean) / deviation


def hog_labels(images: Tensor) -> Tensor:
    """Histograms of oriented gradients: (B, C, H, W) to (B, N, C * 9 * 4).

    As MaskFeat predicts them (Wei et al., "Masked Feature Prediction for Self-Supervised Visual
    Pre-Training", arXiv 2112.09133, section 3.2): 9 bins of the unsigned orientation, cells of 8x8
    px, each channel for itself, each histogram scaled to L2 norm 1. Gradients are Sobel's, with
    reflection at the border; a pixel votes for one bin with the magnitude of its gradient. The
    bins are turned by an eighth of their width, or rounding errors would decide where the many
    gradients along an axis fall. A cell without any gradient is all zeros.

    A hidden patch's label depends on one pixel around it, as in MaskFeat: the gradient at its rim.

    The order within a patch is channel, bin, row and column of the cell.
    """
    b, c, h, w = images.shape
    sobel = images.new_tensor([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    kernels = torch.stack([sobel, sobel.T]).unsqueeze(1)  # (2, 1, 3, 3)
    maps = F.pad(images.flatten(0, 1).unsqueeze(1), (1, 1, 1, 1), mode="reflect")  # (B*C, 1, ...)
    with torch.autocast(images.device.type, enabled=False):
        gx, gy = F.conv2d(maps, kernels).unbind(1)  # (B * C, H, W) each
    turn = torch.atan2(gy, gx) / math.pi  # in half turns, -1..1
    bins = (turn * HOG_BINS + 1 / 8).floor().long() % HOG_BINS
    votes = gx.new_zeros(b * c, HOG_BINS, h, w)
    votes.scatter_(1, bins.unsqueeze(1), gx.hypot(gy).unsqueeze(1))
    cells = F.normalize(F.avg_pool2d(votes, HOG_CELL), dim=1)  # (B * C, 9, H / 8, W / 8)
    cells = cells.unflatten(0, (b, c)).flatten(1, 2)  # (B, C * 9, H / 8, W / 8)
    return F.pixel_unshuffle(cells, PATCH_SIZE // HOG_CELL).flatten(2).transpose(1, 2)


# name: (labels of normalised images, numbers of a patch per channel)
TARGETS = {
    "pixels": (pixel_labels, PATCH_SIZE**2),
    "hog": (hog_labels, HOG_BINS * (PATCH_SIZE // HOG_CELL) ** 2),
}
