"""Boxes as offsets from other boxes, and the loss on these offsets."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import cat
from detectron2.structures import Boxes
from torch import Tensor

__all__ = ["Box2BoxTransform"]

# Sizes grow by a factor of 1000 / 16 at most, so that exp cannot overflow early in training.
_SCALE_CLAMP = math.log(1000.0 / 16)


class Box2BoxTransform:
    """R-CNN's encoding: shift of the centre in sides of the source, and log ratio of the sides.

    Args:
        weights: factors of (dx, dy, dw, dh), applied when encoding, divided by when decoding.
        scale_clamp: upper bound of dw and dh when decoding.
    """

    def __init__(
        self,
        weights: tuple[float, float, float, float],
        scale_clamp: float = _SCALE_CLAMP,
    ):
        self.weights = tuple(weights)
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """(N, 4) deltas from ``src_boxes`` (N, 4), which must not be empty, to the targets.

        Raises:
            ValueError: if a source box has no width.
        """
        src_width, src_height, src_x, src_y = _size_and_centre(src_boxes)
        width, height, x, y = _size_and_centre(target_boxes)
        if not (src_width > 0).all():
            raise ValueError("Box2BoxTransform.get_deltas: a source box has no width")
        wx, wy, ww, wh = self.weights
        return torch.stack(
            [
                wx * (x - src_x) / src_width,
                wy * (y - src_y) / src_height,
                ww * torch.log(width / src_width),
                wh * torch.log(height / src_height),
            ],
            dim=1,
        )

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Boxes that the deltas lead to, in float32.

        Args:
            deltas: (N, K * 4), K sets for each box.
            boxes: (N, 4)

        Returns:
            (N, K * 4)
        """
        deltas = deltas.float()  # half precision overflows in exp
        boxes = boxes.to(deltas.dtype)
        width, height, x, y = (v[:, None] for v in _size_and_centre(boxes))  # (N, 1) each
        wx, wy, ww, wh = self.weights
        dx, dy = deltas[:, 0::4] / wx, deltas[:, 1::4] / wy  # (N, K) each
        dw = (deltas[:, 2::4] / ww).clamp(max=self.scale_clamp)
        dh = (deltas[:, 3::4] / wh).clamp(max=self.scale_clamp)
        new_x, new_y = dx * width + x, dy * height + y
        new_width, new_height = torch.exp(dw) * width, torch.exp(dh) * height
        corners = [
            new_x - 0.5 * new_width,
            new_y - 0.5 * new_height,
            new_x + 0.5 * new_width,
            new_y + 0.5 * new_height,
        ]
        return torch.stack(corners, dim=-1).reshape(deltas.shape)  # (N, K, 4) -> (N, K * 4)


def _size_and_centre(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    width, height = x1 - x0, y1 - y0
    return width, height, x0 + 0.5 * width, y0 + 0.5 * height


def check_box_reg_loss_type(box_reg_loss_type: str) -> None:
    """NotImplementedError for every loss but smooth L1."""
    if box_reg_loss_type != "smooth_l1":
        raise NotImplementedError(
            f"box_reg_loss_type={box_reg_loss_type!r} is not in detectron2_lite, which has "
            "'smooth_l1'; install Detectron2"
        )


def _dense_box_regression_loss(
    anchors: Sequence[Boxes | Tensor],
    box2box_transform: Box2BoxTransform,
    pred_anchor_deltas: Sequence[Tensor],
    gt_boxes: Sequence[Tensor],
    fg_mask: Tensor,
    box_reg_loss_type: str = "smooth_l1",
    smooth_l1_beta: float = 0.0,
) -> Tensor:
    """Sum of the regression loss over the foreground anchors of all images.

    Args:
        anchors: for each level (R_i, 4), the same for all images; R is the sum of R_i.
        pred_anchor_deltas: for each level (N, R_i, 4).
        gt_boxes: for each of the N images the matched boxes (R, 4).
        fg_mask: (N, R) bool, the anchors that count.
        smooth_l1_beta: where the loss turns from quadratic to linear; 0 for L1.
    """
    check_box_reg_loss_type(box_reg_loss_type)
    matched = torch.stack(list(gt_boxes))  # (N, R, 4)
    anchors = cat([getattr(a, "tensor", a) for a in anchors]).expand_as(matched)
    foreground = fg_mask.nonzero(as_tuple=True)
    return F.smooth_l1_loss(
        cat(pred_anchor_deltas, dim=1)[foreground],
        box2box_transform.get_deltas(anchors[foreground], matched[foreground]),
        beta=smooth_l1_beta,
        reduction="sum",
    )
