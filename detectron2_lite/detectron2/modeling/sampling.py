"""Random choice of the predictions that take part in a loss."""

import torch
from detectron2.layers import nonzero_tuple
from torch import Tensor

__all__ = ["subsample_labels"]


def subsample_labels(
    labels: Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> tuple[Tensor, Tensor]:
    """Draw positives, at most a fraction of the samples, and fill up with negatives.

    Args:
        labels: (N,) classes; -1 is ignored, ``bg_label`` is negative, all others positive.
        num_samples: how many to draw; fewer if there are not enough negatives.
        positive_fraction: at most ``int(num_samples * positive_fraction)`` are positives.

    Returns:
        int64 indices of the positives and of the negatives, in random order.
    """
    (positive,) = nonzero_tuple((labels != -1) & (labels != bg_label))
    (negative,) = nonzero_tuple(labels == bg_label)
    num_positive = min(len(positive), int(num_samples * positive_fraction))
    num_negative = min(len(negative), num_samples - num_positive)
    # The order of the two draws is part of what makes a run reproducible.
    keep_positive = torch.randperm(len(positive), device=positive.device)[:num_positive]
    keep_negative = torch.randperm(len(negative), device=negative.device)[:num_negative]
    return positive[keep_positive], negative[keep_negative]
