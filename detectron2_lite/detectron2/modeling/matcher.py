"""Assignment of ground-truth boxes to predictions by their overlap."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Matcher"]


class Matcher:
    """Gives every prediction its best ground truth, and a label by how good that is.

    Args:
        thresholds: rising positive numbers that divide the qualities into intervals
            [low, high).
        labels: the label of each interval, one more than thresholds: 1 for foreground, 0 for
            background, -1 to ignore.
        allow_low_quality_matches: also label 1 the predictions that are the best of a ground
            truth, whatever their quality. They keep their own best ground truth.
    """

    def __init__(
        self,
        thresholds: Sequence[float],
        labels: Sequence[int],
        allow_low_quality_matches: bool = False,
    ):
        bounds = [-torch.inf, *thresholds, torch.inf]
        if len(thresholds) == 0 or thresholds[0] <= 0 or bounds != sorted(bounds):
            raise ValueError(f"thresholds={list(thresholds)} are not positive and rising")
        if len(labels) != len(thresholds) + 1 or not set(labels) <= {-1, 0, 1}:
            raise ValueError(
                f"labels={list(labels)}: need {len(thresholds) + 1} of -1, 0, 1, one more than "
                "thresholds"
            )
        self.thresholds = bounds
        self.labels = list(labels)
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Match N predictions with M ground truths.

        Args:
            match_quality_matrix: (M, N), >= 0, usually IoU.

        Returns:
            int64 (N,) index of the best ground truth, the first among equals (0 if M is 0);
            int8 (N,) label.
        """
        quality = match_quality_matrix
        num_gt, num_pred = quality.shape
        if num_gt == 0 or num_pred == 0:
            return (
                quality.new_zeros(num_pred, dtype=torch.int64),
                quality.new_full((num_pred,), self.labels[0], dtype=torch.int8),
            )
        best, matches = quality.max(dim=0)
        labels = torch.empty_like(matches, dtype=torch.int8)
        intervals = zip(self.labels, self.thresholds[:-1], self.thresholds[1:], strict=True)
        for label, low, high in intervals:
            labels[(best >= low) & (best < high)] = label
        if self.allow_low_quality_matches:
            best_of_gt = quality.amax(dim=1, keepdim=True)  # (M, 1)
            labels[(quality == best_of_gt).any(dim=0)] = 1
        return matches, labels
