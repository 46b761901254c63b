"""Second stage: sample regions, pool their features, run the heads."""

from collections.abc import Mapping, Sequence

import torch
from detectron2.structures import ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..matcher import Matcher
from ..poolers import ROIPooler
from ..proposal_generator.proposal_utils import add_ground_truth_to_proposals
from ..sampling import subsample_labels

__all__ = [
    "ROIHeads",
    "StandardROIHeads",
    "log_sample_counts",
    "select_foreground_proposals",
]


def select_foreground_proposals(
    proposals: Sequence[Instances], bg_label: int
) -> tuple[list[Instances], list[Tensor]]:
    """Those of a class other than ``bg_label`` and -1.

    Args:
        proposals: of each image, with ``gt_classes``.

    Returns:
        for each image the foreground proposals, and a bool mask of the given ones.
    """
    masks = [(p.gt_classes != -1) & (p.gt_classes != bg_label) for p in proposals]
    return [p[mask] for p, mask in zip(proposals, masks, strict=True)], masks


def log_sample_counts(gt_classes: Sequence[Tensor], num_classes: int) -> None:
    """Log "roi_head/num_fg_samples" and "roi_head/num_bg_samples", the means over the images.

    Args:
        gt_classes: of each image, (R_i,) in [0, num_classes]; the last is the background.
    """
    num_samples = sum(len(classes) for classes in gt_classes)
    num_bg = torch.cat(list(gt_classes)).eq(num_classes).sum().item()
    storage = get_event_storage()
    storage.put_scalar("roi_head/num_fg_samples", (num_samples - num_bg) / len(gt_classes))
    storage.put_scalar("roi_head/num_bg_samples", num_bg / len(gt_classes))


class ROIHeads(nn.Module):
    """Base class: sampling of the proposals for training.

    Args:
        num_classes: K; class K is the background.
        batch_size_per_image: proposals in the losses.
        positive_fraction: at most this part of them is foreground.
        proposal_matcher: labels proposals by IoU with the ground truth.
        proposal_append_gt: add the ground-truth boxes to the proposals.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_matcher: Matcher,
        proposal_append_gt: bool = True,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.proposal_matcher = proposal_matcher
        self.proposal_append_gt = proposal_append_gt

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: Sequence[Instances], targets: Sequence[Instances]
    ) -> list[Instances]:
        """Match the proposals of each image with its ground truth, and sample.

        Args:
            proposals: of each image, with ``proposal_boxes`` and ``objectness_logits``.
            targets: of each image, with ``gt_boxes``, ``gt_classes`` and maybe other ``gt_*``.

        Returns:
            for each image ``batch_size_per_image`` proposals or fewer, foreground first, with
            ``gt_classes``, and all ``gt_*`` of the matched ground truth if there is any in the
            image. (For background these have no meaning.)
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        sampled = []
        for image_proposals, image_targets in zip(proposals, targets, strict=True):
            overlaps = pairwise_iou(image_targets.gt_boxes, image_proposals.proposal_boxes)
            matches, labels = self.proposal_matcher(overlaps)
            rows, classes = self._sample_proposals(matches, labels, image_targets.gt_classes)
            chosen = image_proposals[rows]
            chosen.gt_classes = classes
            if len(image_targets) > 0:
                for name, value in image_targets.get_fields().items():
                    if name.startswith("gt_") and not chosen.has(name):
                        chosen.set(name, value[matches[rows]])
            sampled.append(chosen)
        log_sample_counts([x.gt_classes for x in sampled], self.num_classes)
        return sampled

    def _sample_proposals(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rows of the sampled proposals, foreground first, and their classes."""
        if len(gt_classes) > 0:
            classes = gt_classes[matched_idxs]
            classes[matched_labels == 0] = self.num_classes
            classes[matched_labels == -1] = -1
        else:
            classes = torch.full_like(matched_idxs, self.num_classes)
        rows = torch.cat(
            subsample_labels(
                classes, self.batch_size_per_image, self.positive_fraction, self.num_classes
            )
        )
        return rows, classes[rows]

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Detect, or compute losses; see ``StandardROIHeads``."""
        raise NotImplementedError


class StandardROIHeads(ROIHeads):
    """A box branch and, if ``mask_head`` is given, a mask branch.

    Args:
        box_in_features: names of the feature maps, from fine to coarse.
        box_pooler, box_head, box_predictor: see ``ROIPooler``, ``FastRCNNConvFCHead`` and
            ``FastRCNNOutputLayers``.
        mask_in_features, mask_pooler, mask_head: the same for masks, see
            ``MaskRCNNConvUpsampleHead``.
        keypoint_in_features, keypoint_pooler, keypoint_head, train_on_pred_boxes: must stay as
            they are; NotImplementedError otherwise.
        **kwargs: of ``ROIHeads``.
    """

    def __init__(
        self,
        *,
        box_in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_in_features: Sequence[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_head: nn.Module | None = None,
        keypoint_in_features: Sequence[str] | None = None,
        keypoint_pooler: ROIPooler | None = None,
        keypoint_head: nn.Module | None = None,
        train_on_pred_boxes: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        unsupported = {
            "keypoint_in_features": keypoint_in_features,
            "keypoint_pooler": keypoint_pooler,
            "keypoint_head": keypoint_head,
            "train_on_pred_boxes": train_on_pred_boxes,
            "mask_head without mask_pooler": mask_head is not None and mask_pooler is None,
        }
        for name, value in unsupported.items():
            if value:
                raise NotImplementedError(f"{name} is not in detectron2_lite; install Detectron2")
        self.box_in_features = list(box_in_features)
        self.in_features = self.box_in_features
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.mask_on = mask_head is not None
        self.keypoint_on = False
        if self.mask_on:
            self.mask_in_features = list(mask_in_features or ())
            self.mask_pooler = mask_pooler
            self.mask_head = mask_head

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Detect, or compute losses.

        Args:
            images: not used.
            features: maps (N, C, H_i, W_i) by name.
            proposals: of each image, with ``proposal_boxes`` and ``objectness_logits``.
            targets: in training, of each image, see ``label_and_sample_proposals``.

        Returns:
            in training the sampled proposals and the losses; else for each image Instances with
            ``pred_boxes``, ``scores``, ``pred_classes`` and maybe ``pred_masks`` (N, 1, M, M),
            and {}.
        """
        if not self.training:
            detections = self._forward_box(features, proposals)
            return self.forward_with_given_boxes(features, detections), {}
        if targets is None:
            raise ValueError("ROI heads in training need targets")
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._box_losses(features, proposals, targets)
        # Masks learn from the proposals of the first stage, also where boxes have later ones.
        losses.update(self._forward_mask(features, proposals))
        return proposals, losses

    def forward_with_given_boxes(
        self, features: Mapping[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Add ``pred_masks`` to detections with ``pred_boxes`` and ``pred_classes``."""
        if self.training:
            raise ValueError("forward_with_given_boxes in training; call model.eval() first")
        for x in instances:
            if not (x.has("pred_boxes") and x.has("pred_classes")):
                raise ValueError(f"detections need pred_boxes and pred_classes, got {x}")
        return self._forward_mask(features, instances)

    def _box_losses(
        self,
        features: Mapping[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
    ) -> dict[str, Tensor]:
        return self._forward_box(features, proposals)

    def _forward_box(
        self, features: Mapping[str, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        """Losses of the box branch in training, else detections without masks."""
        maps = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(maps, [x.proposal_boxes for x in proposals])
        predictions = self.box_predictor(self.box_head(pooled))
        if self.training:
            return self.box_predictor.losses(predictions, proposals)
        return self.box_predictor.inference(predictions, proposals)[0]

    def _forward_mask(
        self, features: Mapping[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        """Loss of the mask branch on foreground proposals, else detections with masks."""
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
            boxes = [x.proposal_boxes for x in instances]
        else:
            boxes = [x.pred_boxes for x in instances]
        maps = [features[name] for name in self.mask_in_features]
        return self.mask_head(self.mask_pooler(maps, boxes), instances)
