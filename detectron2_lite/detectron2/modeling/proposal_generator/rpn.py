"""Region proposal network, https://arxiv.org/abs/1506.01497.

Shapes: N images, L levels, A anchors per position, R_i = H_i * W_i * A anchors on level i,
R = sum of R_i. Anchors are ordered by row, column, anchor, and levels from fine to coarse.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, cat
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.memory import retry_if_cuda_oom
from torch import Tensor, nn

from ..box_regression import (
    Box2BoxTransform,
    _dense_box_regression_loss,
    check_box_reg_loss_type,
)
from ..matcher import Matcher
from ..sampling import subsample_labels
from .proposal_utils import find_top_rpn_proposals

__all__ = ["RPN", "StandardRPNHead"]


class StandardRPNHead(nn.Module):
    """3x3 convolutions, then a 1x1 each for objectness and box deltas, shared by all levels.

    Args:
        in_channels: of the feature maps.
        num_anchors: A.
        box_dim: numbers per box.
        conv_dims: output channels of the 3x3 convolutions; -1 means ``in_channels``.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_anchors: int,
        box_dim: int = 4,
        conv_dims: Sequence[int] = (-1,),
    ):
        super().__init__()
        dims = [in_channels if dim == -1 else dim for dim in conv_dims]
        if not dims or min(dims) <= 0:
            raise ValueError(f"conv_dims={list(conv_dims)}: need at least one of -1 or > 0")
        convs = [
            Conv2d(d_in, d_out, kernel_size=3, padding=1, activation=nn.ReLU())
            for d_in, d_out in zip([in_channels, *dims], dims, strict=False)
        ]
        if len(convs) == 1:  # state-dict keys: conv.weight, or conv.conv0.weight, …
            self.conv = convs[0]
        else:
            self.conv = nn.Sequential()
            for k, conv in enumerate(convs):
                self.conv.add_module(f"conv{k}", conv)
        self.objectness_logits = nn.Conv2d(dims[-1], num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(dims[-1], num_anchors * box_dim, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """From maps (N, C, H_i, W_i): logits (N, A, H_i, W_i), deltas (N, A * 4, H_i, W_i)."""
        hidden = [self.conv(x) for x in features]
        return [self.objectness_logits(x) for x in hidden], [self.anchor_deltas(x) for x in hidden]


class RPN(nn.Module):
    """Proposes boxes, and in training learns to.

    Args:
        in_features: names of the feature maps, from fine to coarse.
        head: gives logits and deltas, see ``StandardRPNHead``.
        anchor_generator: see ``DefaultAnchorGenerator``.
        anchor_matcher: labels anchors by IoU with the ground truth.
        box2box_transform: encoding of boxes relative to anchors.
        batch_size_per_image: anchors in the loss. The sums of the losses are divided by this times
            N, also if fewer were to be had.
        positive_fraction: at most this part of them is foreground.
        pre_nms_topk, post_nms_topk: (training, test), see ``find_top_rpn_proposals``.
        nms_thresh, min_box_size: see ``find_top_rpn_proposals``.
        anchor_boundary_thresh: anchors that leave the image by so many pixels are ignored in the
            loss; negative to keep all.
        loss_weight: factor of both losses, or by name, "loss_rpn_cls" and "loss_rpn_loc".
        box_reg_loss_type: "smooth_l1".
        smooth_l1_beta: 0 for L1.
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | Mapping[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ):
        super().__init__()
        check_box_reg_loss_type(box_reg_loss_type)
        self.in_features = list(in_features)
        self.rpn_head = head
        self.anchor_generator = anchor_generator
        self.anchor_matcher = anchor_matcher
        self.box2box_transform = box2box_transform
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_topk = {True: pre_nms_topk[0], False: pre_nms_topk[1]}
        self.post_nms_topk = {True: post_nms_topk[0], False: post_nms_topk[1]}
        self.nms_thresh = nms_thresh
        self.min_box_size = min_box_size
        self.anchor_boundary_thresh = anchor_boundary_thresh
        if isinstance(loss_weight, int | float):
            loss_weight = {"loss_rpn_cls": loss_weight, "loss_rpn_loc": loss_weight}
        self.loss_weight = loss_weight
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        gt_instances: Sequence[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose boxes.

        Args:
            images: only their sizes are used.
            features: maps (N, C, H_i, W_i) by name.
            gt_instances: in training, Instances with ``gt_boxes`` for each image.

        Returns:
            see ``find_top_rpn_proposals``; losses "loss_rpn_cls" and "loss_rpn_loc" (in training).
        """
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logits, deltas = self.rpn_head(maps)
        # (N, A, H, W) -> (N, H, W, A) -> (N, R_i)
        logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
        # (N, A * 4, H, W) -> (N, A, 4, H, W) -> (N, H, W, A, 4) -> (N, R_i, 4)
        box_dim = self.anchor_generator.box_dim
        deltas = [
            x.unflatten(1, (-1, box_dim)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in deltas
        ]
        losses = {}
        if self.training:
            if gt_instances is None:
                raise ValueError("RPN in training needs gt_instances")
            gt_labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, gt_labels, deltas, gt_boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: Sequence[Boxes], gt_instances: Sequence[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label the anchors of each image and choose those that take part in the loss.

        Args:
            anchors: of each level (R_i, 4).
            gt_instances: of each image, with ``gt_boxes``.

        Returns:
            for each image int8 labels (R,): 1 foreground, 0 background, -1 not in the loss;
            for each image the matched ground-truth boxes (R, 4), of meaning where the label is 1.
        """
        anchors = Boxes.cat(anchors)
        gt_labels, matched_boxes = [], []
        for targets in gt_instances:
            gt_boxes = targets.gt_boxes
            overlaps = retry_if_cuda_oom(pairwise_iou)(gt_boxes, anchors)  # (num_gt, R)
            matches, labels = retry_if_cuda_oom(self.anchor_matcher)(overlaps)
            labels = labels.to(gt_boxes.device)
            del overlaps
            if self.anchor_boundary_thresh >= 0:
                inside = anchors.inside_box(targets.image_size, self.anchor_boundary_thresh)
                labels[~inside] = -1
            gt_labels.append(self._subsample_labels(labels))
            if len(gt_boxes) == 0:
                matched_boxes.append(torch.zeros_like(anchors.tensor))
            else:
                matched_boxes.append(gt_boxes.tensor[matches])
        return gt_labels, matched_boxes

    def _subsample_labels(self, labels: Tensor) -> Tensor:
        """Set the labels of all but the sampled anchors to -1, in place."""
        positive, negative = subsample_labels(
            labels, self.batch_size_per_image, self.positive_fraction, bg_label=0
        )
        labels.fill_(-1)
        labels[positive] = 1
        labels[negative] = 0
        return labels

    def losses(
        self,
        anchors: Sequence[Boxes],
        pred_objectness_logits: Sequence[Tensor],
        gt_labels: Sequence[Tensor],
        pred_anchor_deltas: Sequence[Tensor],
        gt_boxes: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Binary cross-entropy over the sampled anchors, smooth L1 over the foreground.

        Args:
            anchors: of each level (R_i, 4).
            pred_objectness_logits: of each level (N, R_i).
            gt_labels, gt_boxes: of each image, see ``label_and_sample_anchors``.
            pred_anchor_deltas: of each level (N, R_i, 4).
        """
        num_images = len(gt_labels)
        gt_labels = torch.stack(list(gt_labels))  # (N, R)
        foreground, sampled = gt_labels == 1, gt_labels >= 0
        num_foreground, num_sampled = torch.stack([foreground.sum(), sampled.sum()]).tolist()
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", num_foreground / num_images)
        storage.put_scalar("rpn/num_neg_anchors", (num_sampled - num_foreground) / num_images)

        loc_loss = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            foreground,
            box_reg_loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        cls_loss = F.binary_cross_entropy_with_logits(
            cat(pred_objectness_logits, dim=1)[sampled],
            gt_labels[sampled].to(torch.float32),
            reduction="sum",
        )
        normalizer = self.batch_size_per_image * num_images
        losses = {"loss_rpn_cls": cls_loss / normalizer, "loss_rpn_loc": loc_loss / normalizer}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: Sequence[Boxes],
        pred_objectness_logits: Sequence[Tensor],
        pred_anchor_deltas: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Decode the deltas and select. No gradient flows through proposals."""
        return find_top_rpn_proposals(
            self._decode_proposals(anchors, pred_anchor_deltas),
            pred_objectness_logits,
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )

    def _decode_proposals(
        self, anchors: Sequence[Boxes], pred_anchor_deltas: Sequence[Tensor]
    ) -> list[Tensor]:
        """Boxes (N, R_i, 4) of each level."""
        proposals = []
        for level_anchors, deltas in zip(anchors, pred_anchor_deltas, strict=True):
            tiled = level_anchors.tensor.repeat(len(deltas), 1)  # (N * R_i, 4)
            # (N, R_i, 4) -> (N * R_i, 4) -> (N, R_i, 4)
            boxes = self.box2box_transform.apply_deltas(deltas.flatten(0, 1), tiled)
            proposals.append(boxes.view_as(deltas))
        return proposals
