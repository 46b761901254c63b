"""Selection of proposals."""

import math
from collections.abc import Sequence

import torch
from detectron2.layers import batched_nms, cat
from detectron2.structures import Boxes, Instances
from torch import Tensor

__all__ = ["add_ground_truth_to_proposals", "find_top_rpn_proposals"]


def find_top_rpn_proposals(
    proposals: Sequence[Tensor],
    pred_objectness_logits: Sequence[Tensor],
    image_sizes: Sequence[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """The best proposals of each image: top-k per level, clip, NMS per level, top-k over levels.

    Args:
        proposals: for each level (N, R_i, 4) decoded boxes in pixels.
        pred_objectness_logits: for each level (N, R_i).
        image_sizes: (height, width) of each of the N images, without padding.
        nms_thresh: IoU above which the lower of two boxes of a level is dropped.
        pre_nms_topk: proposals kept per level before NMS.
        post_nms_topk: proposals kept per image after NMS.
        min_box_size: in pixels; both sides must be longer.
        training: raise on inf and nan, instead of dropping those boxes.

    Returns:
        for each image ``proposal_boxes`` and ``objectness_logits``, by falling logit.

    Raises:
        FloatingPointError: in training, if a box or logit is inf or nan.
    """
    level_boxes, level_logits, level_ids = [], [], []
    for level, (boxes, logits) in enumerate(zip(proposals, pred_objectness_logits, strict=True)):
        top_logits, top = logits.topk(min(pre_nms_topk, logits.shape[1]), dim=1)  # (N, K_i)
        level_logits.append(top_logits)
        level_boxes.append(boxes.gather(1, top[:, :, None].expand(-1, -1, 4)))  # (N, K_i, 4)
        level_ids.append(torch.full_like(top[0], level))
    all_boxes, all_logits = cat(level_boxes, dim=1), cat(level_logits, dim=1)
    all_levels = cat(level_ids, dim=0)

    finite = torch.isfinite(all_boxes).all(dim=2) & torch.isfinite(all_logits)  # (N, K)
    all_finite = bool(finite.all())
    if training and not all_finite:
        raise FloatingPointError(
            "Proposals or their scores contain inf or nan: training has diverged. "
            "Lower the learning rate, lengthen the warm-up or clip gradients."
        )

    results = []
    for n, image_size in enumerate(image_sizes):
        boxes, logits, levels = Boxes(all_boxes[n]), all_logits[n], all_levels
        if not all_finite:
            boxes, logits, levels = boxes[finite[n]], logits[finite[n]], levels[finite[n]]
        boxes.clip(image_size)
        keep = boxes.nonempty(threshold=min_box_size)
        boxes, logits, levels = boxes[keep], logits[keep], levels[keep]
        # The result of NMS is sorted by score.
        keep = batched_nms(boxes.tensor, logits, levels, nms_thresh)[:post_nms_topk]
        results.append(
            Instances(image_size, proposal_boxes=boxes[keep], objectness_logits=logits[keep])
        )
    return results


def add_ground_truth_to_proposals(
    gt: Sequence[Instances] | Sequence[Boxes], proposals: Sequence[Instances]
) -> list[Instances]:
    """Append the ground-truth boxes of each image to its proposals.

    Args:
        gt: for each image Instances with ``gt_boxes``, or Boxes.
        proposals: for each image Instances with ``proposal_boxes`` and ``objectness_logits``.

    Returns:
        New Instances. The appended boxes have the logit of a probability of 1 - 1e-10.

    Raises:
        ValueError: if the lists differ in length.
    """
    if len(gt) != len(proposals):
        raise ValueError(f"ground truth of {len(gt)} images, proposals of {len(proposals)}")
    probability = 1.0 - 1e-10
    gt_logit = math.log(probability / (1 - probability))
    results = []
    for targets, image_proposals in zip(gt, proposals, strict=True):
        boxes = targets if isinstance(targets, Boxes) else targets.gt_boxes
        logits = image_proposals.objectness_logits
        added = Instances(
            image_proposals.image_size,
            proposal_boxes=boxes,
            objectness_logits=logits.new_full((len(boxes),), gt_logit),
        )
        results.append(Instances.cat([image_proposals, added]))
    return results
