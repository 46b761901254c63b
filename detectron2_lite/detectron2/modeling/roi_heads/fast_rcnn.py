"""Classification and box regression of regions, https://arxiv.org/abs/1504.08083.

Shapes: R regions of all images together, R_i of image i; K classes, class K is the background;
B is 4, or K * 4 if each class has its own box.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec, batched_nms, cat, cross_entropy, nonzero_tuple
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..box_regression import Box2BoxTransform, check_box_reg_loss_type

__all__ = ["FastRCNNOutputLayers", "fast_rcnn_inference", "fast_rcnn_inference_single_image"]


def fast_rcnn_inference(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    image_shapes: Sequence[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[Tensor]]:
    """Detections of each image, see ``fast_rcnn_inference_single_image``, and the kept rows."""
    results = [
        fast_rcnn_inference_single_image(*image, score_thresh, nms_thresh, topk_per_image)
        for image in zip(boxes, scores, image_shapes, strict=True)
    ]
    return [instances for instances, _ in results], [rows for _, rows in results]


def fast_rcnn_inference_single_image(
    boxes: Tensor,
    scores: Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[Instances, Tensor]:
    """Choose among all pairs of region and class by score, then by NMS within each class.

    Args:
        boxes: (R_i, B) in pixels; they are clipped to the image.
        scores: (R_i, K + 1) probabilities.
        image_shape: (height, width).
        score_thresh: a score must be larger.
        nms_thresh: IoU above which the lower of two boxes of a class is dropped.
        topk_per_image: how many to keep at most; negative for all.

    Returns:
        Instances with ``pred_boxes``, ``scores`` and ``pred_classes``, by falling score;
        the row of each in ``boxes``, not counting rows with inf or nan.
    """
    finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
    if not finite.all():
        boxes, scores = boxes[finite], scores[finite]
    scores = scores[:, :-1]
    clipped = Boxes(boxes.reshape(-1, 4))  # (R_i, B) -> (R_i * B / 4, 4)
    clipped.clip(image_shape)
    boxes = clipped.tensor.view(len(boxes), boxes.shape[1] // 4, 4)  # -> (R_i, K or 1, 4)
    rows, classes = nonzero_tuple(scores > score_thresh)
    boxes = boxes[rows, classes if boxes.shape[1] > 1 else 0]
    scores = scores[rows, classes]

    keep = batched_nms(boxes, scores, classes, nms_thresh)
    if topk_per_image >= 0:
        keep = keep[:topk_per_image]
    result = Instances(
        image_shape, pred_boxes=Boxes(boxes[keep]), scores=scores[keep], pred_classes=classes[keep]
    )
    return result, rows[keep]


@torch.no_grad()
def _log_classification_stats(
    pred_logits: Tensor, gt_classes: Tensor, prefix: str = "fast_rcnn"
) -> None:
    """Log the accuracy over all regions, and over those of the foreground.

    Args:
        pred_logits: (R, K + 1)
        gt_classes: (R,)
    """
    if gt_classes.numel() == 0:
        return
    background = pred_logits.shape[1] - 1
    predicted = pred_logits.argmax(dim=1)
    foreground = (gt_classes >= 0) & (gt_classes < background)
    right = predicted == gt_classes
    num_right, num_fg, num_fg_right, num_missed = torch.stack(
        [
            right.sum(),
            foreground.sum(),
            (right & foreground).sum(),
            ((predicted == background) & foreground).sum(),
        ]
    ).tolist()
    storage = get_event_storage()
    storage.put_scalar(f"{prefix}/cls_accuracy", num_right / gt_classes.numel())
    if num_fg > 0:
        storage.put_scalar(f"{prefix}/fg_cls_accuracy", num_fg_right / num_fg)
        storage.put_scalar(f"{prefix}/false_negative", num_missed / num_fg)


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers: class scores and box deltas, with their losses and inference.

    Args:
        input_shape: of the features; height and width, if given, are flattened.
        box2box_transform: encoding of boxes relative to proposals.
        num_classes: K.
        test_score_thresh, test_nms_thresh, test_topk_per_image: see
            ``fast_rcnn_inference_single_image``.
        cls_agnostic_bbox_reg: one box for all classes, instead of one for each.
        smooth_l1_beta: 0 for L1.
        box_reg_loss_type: "smooth_l1".
        loss_weight: factor of both losses, or by name, "loss_cls" and "loss_box_reg".
        use_fed_loss, use_sigmoid_ce, get_fed_loss_cls_weights, fed_loss_num_classes: must stay as
            they are; NotImplementedError otherwise.
    """

    def __init__(
        self,
        input_shape: ShapeSpec | int,
        *,
        box2box_transform: Box2BoxTransform,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | Mapping[str, float] = 1.0,
        use_fed_loss: bool = False,
        use_sigmoid_ce: bool = False,
        get_fed_loss_cls_weights: Callable | None = None,
        fed_loss_num_classes: int = 50,
    ):
        super().__init__()
        check_box_reg_loss_type(box_reg_loss_type)
        if use_fed_loss or use_sigmoid_ce:
            option = "use_fed_loss" if use_fed_loss else "use_sigmoid_ce"
            raise NotImplementedError(
                f"{option}=True is not in detectron2_lite; install Detectron2"
            )
        if isinstance(input_shape, int):
            input_shape = ShapeSpec(channels=input_shape)
        input_size = math.prod(
            (input_shape.channels, input_shape.width or 1, input_shape.height or 1)
        )
        num_boxes = 1 if cls_agnostic_bbox_reg else num_classes
        self.cls_score = nn.Linear(input_size, num_classes + 1)
        self.bbox_pred = nn.Linear(input_size, num_boxes * len(box2box_transform.weights))
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

        self.num_classes = num_classes
        self.box2box_transform = box2box_transform
        self.smooth_l1_beta = smooth_l1_beta
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        self.box_reg_loss_type = box_reg_loss_type
        if isinstance(loss_weight, int | float):
            loss_weight = {"loss_cls": loss_weight, "loss_box_reg": loss_weight}
        self.loss_weight = loss_weight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, …) features -> logits (R, K + 1), deltas (R, B)."""
        x = x.flatten(1)  # (R, C, H, W) -> (R, C * H * W), or as it is
        return self.cls_score(x), self.bbox_pred(x)

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Cross-entropy over all regions, and the box loss.

        Args:
            predictions: of ``forward``.
            proposals: of each image, with ``proposal_boxes`` and ``gt_classes``, and ``gt_boxes``
                if the image has ground truth.

        Returns:
            "loss_cls" and "loss_box_reg"
        """
        logits, deltas = predictions
        gt_classes = cat([p.gt_classes for p in proposals])
        _log_classification_stats(logits, gt_classes)
        boxes = cat([p.proposal_boxes.tensor for p in proposals])
        # Without ground truth all is background, and the boxes are not looked at.
        gt_boxes = cat(
            [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals]
        )
        losses = {
            "loss_cls": cross_entropy(logits, gt_classes, reduction="mean"),
            "loss_box_reg": self.box_reg_loss(boxes, gt_boxes, deltas, gt_classes),
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def box_reg_loss(
        self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor
    ) -> Tensor:
        """Smooth L1 summed over the foreground, divided by the number R of all regions.

        So every foreground region weighs the same, however many there are in its image.

        Args:
            proposal_boxes, gt_boxes: (R, 4)
            pred_deltas: (R, B), of which the set of the true class counts.
            gt_classes: (R,)
        """
        (fg,) = nonzero_tuple((gt_classes >= 0) & (gt_classes < self.num_classes))
        deltas = pred_deltas.unflatten(1, (-1, proposal_boxes.shape[1]))  # (R, K or 1, 4)
        deltas = deltas[fg, gt_classes[fg] if deltas.shape[1] > 1 else 0]
        target = self.box2box_transform.get_deltas(proposal_boxes[fg], gt_boxes[fg])
        loss = F.smooth_l1_loss(deltas, target, beta=self.smooth_l1_beta, reduction="sum")
        return loss / max(gt_classes.numel(), 1)

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Detections of each image, see ``fast_rcnn_inference``."""
        return fast_rcnn_inference(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [p.image_size for p in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )

    def predict_boxes(
        self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Instances]
    ) -> tuple[Tensor, ...]:
        """Boxes (R_i, B) of each image, not clipped."""
        if not len(proposals):
            return ()
        boxes = cat([p.proposal_boxes.tensor for p in proposals])
        decoded = self.box2box_transform.apply_deltas(predictions[1], boxes)
        return decoded.split([len(p) for p in proposals])

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Instances]
    ) -> tuple[Tensor, ...]:
        """Probabilities (R_i, K + 1) of each image."""
        return F.softmax(predictions[0], dim=-1).split([len(p) for p in proposals])
