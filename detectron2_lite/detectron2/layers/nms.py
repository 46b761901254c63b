"""Non-maximum suppression within groups."""

from torch import Tensor
from torchvision.ops import boxes as box_ops

__all__ = ["batched_nms"]


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """NMS among the boxes with the same ``idxs`` (a class, a pyramid level).

    Args:
        boxes: (N, 4) as x0, y0, x1, y1; computed in float32.
        scores, idxs: (N,)

    Returns:
        int64 indices of the boxes that stay, by falling score.
    """
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
