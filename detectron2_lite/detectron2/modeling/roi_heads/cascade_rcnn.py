"""Cascade R-CNN, https://arxiv.org/abs/1712.00726."""

from collections.abc import Mapping, Sequence

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..matcher import Matcher
from ..poolers import ROIPooler
from .fast_rcnn import fast_rcnn_inference
from .roi_heads import StandardROIHeads, log_sample_counts

__all__ = ["CascadeROIHeads"]


class _ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


class CascadeROIHeads(StandardROIHeads):
    """Box heads in a row, each refining the boxes of the one before for a higher IoU.

    Scores are the mean of all stages, boxes those of the last; masks come after that. The gradient
    from each stage to the backbone is divided by the number of stages.

    Args:
        box_in_features, box_pooler: as in ``StandardROIHeads``, shared by the stages.
        box_heads, box_predictors, proposal_matchers: one for each stage; the predictors with class
            agnostic boxes.
        **kwargs: of ``StandardROIHeads``, without ``proposal_matcher``.
    """

    def __init__(
        self,
        *,
        box_in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_heads: Sequence[nn.Module],
        box_predictors: Sequence[nn.Module],
        proposal_matchers: Sequence[Matcher],
        **kwargs,
    ):
        if "proposal_matcher" in kwargs:
            raise ValueError("CascadeROIHeads takes proposal_matchers, one for each stage")
        if not 0 < len(box_heads) == len(box_predictors) == len(proposal_matchers):
            raise ValueError(
                f"{len(box_heads)} box_heads, {len(box_predictors)} box_predictors, "
                f"{len(proposal_matchers)} proposal_matchers: need as many of each"
            )
        super().__init__(
            box_in_features=box_in_features,
            box_pooler=box_pooler,
            box_head=nn.ModuleList(box_heads),
            box_predictor=nn.ModuleList(box_predictors),
            proposal_matcher=proposal_matchers[0],
            **kwargs,
        )
        self.num_cascade_stages = len(box_heads)
        self.proposal_matchers = list(proposal_matchers)

    def _box_losses(
        self,
        features: Mapping[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
    ) -> dict[str, Tensor]:
        return self._forward_box(features, proposals, targets)

    def _forward_box(
        self,
        features: Mapping[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> dict[str, Tensor] | list[Instances]:
        """Losses "*_stage{k}" in training, else detections without masks."""
        maps = [features[name] for name in self.box_in_features]
        image_sizes = [x.image_size for x in proposals]
        losses, stage_probs, boxes = {}, [], ()
        for k, predictor in enumerate(self.box_predictor):
            if k > 0:
                proposals = self._create_proposals_from_boxes(boxes, image_sizes)
                if self.training:
                    proposals = self._match_and_label_boxes(proposals, k, targets)
            predictions = self._run_stage(maps, proposals, k)
            boxes = predictor.predict_boxes(predictions, proposals)
            if self.training:
                with get_event_storage().name_scope(f"stage{k}"):
                    stage_losses = predictor.losses(predictions, proposals)
                losses.update({f"{name}_stage{k}": x for name, x in stage_losses.items()})
            else:
                stage_probs.append(predictor.predict_probs(predictions, proposals))
        if self.training:
            return losses
        # Without training no box is dropped between stages, so rows are the same regions.
        weight = 1.0 / self.num_cascade_stages
        probs = [sum(stages) * weight for stages in zip(*stage_probs, strict=True)]
        detections, _ = fast_rcnn_inference(
            boxes,
            probs,
            image_sizes,
            predictor.test_score_thresh,
            predictor.test_nms_thresh,
            predictor.test_topk_per_image,
        )
        return detections

    def _run_stage(
        self, features: Sequence[Tensor], proposals: list[Instances], stage: int
    ) -> tuple[Tensor, Tensor]:
        """Predictions of one stage, see ``FastRCNNOutputLayers.forward``."""
        pooled = self.box_pooler(features, [x.proposal_boxes for x in proposals])
        if self.training:
            pooled = _ScaleGradient.apply(pooled, 1.0 / self.num_cascade_stages)
        return self.box_predictor[stage](self.box_head[stage](pooled))

    def _create_proposals_from_boxes(
        self, boxes: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Proposals of the next stage: detached, clipped, in training without empty ones."""
        proposals = []
        for tensor, image_size in zip(boxes, image_sizes, strict=True):
            image_boxes = Boxes(tensor.detach())
            image_boxes.clip(image_size)
            if self.training:
                image_boxes = image_boxes[image_boxes.nonempty()]
            proposals.append(Instances(image_size, proposal_boxes=image_boxes))
        return proposals

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """Give all proposals ``gt_classes`` and ``gt_boxes`` by the matcher of a stage."""
        for image_proposals, image_targets in zip(proposals, targets, strict=True):
            boxes, gt_boxes = image_proposals.proposal_boxes, image_targets.gt_boxes
            matches, labels = self.proposal_matchers[stage](pairwise_iou(gt_boxes, boxes))
            if len(image_targets) > 0:
                classes = image_targets.gt_classes[matches]
                classes[labels == 0] = self.num_classes
                matched_boxes = gt_boxes[matches]
            else:
                classes = torch.full_like(matches, self.num_classes)
                matched_boxes = Boxes(torch.zeros_like(boxes.tensor))
            image_proposals.gt_classes = classes
            image_proposals.gt_boxes = matched_boxes
        with get_event_storage().name_scope(f"stage{stage}"):
            log_sample_counts([x.gt_classes for x in proposals], self.num_classes)
        return proposals
