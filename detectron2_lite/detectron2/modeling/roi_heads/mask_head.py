"""Masks of regions, https://arxiv.org/abs/1703.06870."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec, cat
from detectron2.layers.blocks import same_size_conv
from detectron2.layers.weight_init import c2_msra_fill
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

__all__ = [
    "BaseMaskRCNNHead",
    "MaskRCNNConvUpsampleHead",
    "mask_rcnn_inference",
    "mask_rcnn_loss",
]


def mask_rcnn_loss(
    pred_mask_logits: Tensor, instances: Sequence[Instances], vis_period: int = 0
) -> Tensor:
    """Mean binary cross-entropy on the mask of the true class.

    Args:
        pred_mask_logits: (R, K, M, M) for the R instances of all images, or (R, 1, M, M) if masks
            do not depend on the class.
        instances: of each image, foreground only, with ``proposal_boxes``, ``gt_classes`` and
            ``gt_masks``, from which the targets are cut out.
        vis_period: 0.

    Returns:
        scalar; 0 with a gradient of 0 if there is no instance.
    """
    if vis_period > 0:
        raise NotImplementedError(f"{vis_period=} is not in detectron2_lite; install Detectron2")
    size = pred_mask_logits.shape[-1]
    instances = [x for x in instances if len(x) > 0]
    if not instances:
        return pred_mask_logits.sum() * 0
    target = cat([x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, size) for x in instances]).to(
        pred_mask_logits.device
    )  # (R, M, M) bool
    if pred_mask_logits.shape[1] == 1:
        logits = pred_mask_logits[:, 0]
    else:
        classes = cat([x.gt_classes for x in instances])
        logits = pred_mask_logits[torch.arange(len(classes), device=classes.device), classes]
    _log_mask_statistics(logits, target)
    return F.binary_cross_entropy_with_logits(logits, target.to(torch.float32), reduction="mean")


@torch.no_grad()
def _log_mask_statistics(logits: Tensor, target: Tensor) -> None:
    """Rates over all pixels, of a mask that is on where the logit is positive."""
    wrong = (logits > 0) != target
    num_wrong, num_missed, num_positive = torch.stack(
        [wrong.sum(), (wrong & target).sum(), target.sum()]
    ).tolist()
    num_negative = target.numel() - num_positive
    storage = get_event_storage()
    storage.put_scalar("mask_rcnn/accuracy", 1 - num_wrong / max(target.numel(), 1))
    storage.put_scalar("mask_rcnn/false_positive", (num_wrong - num_missed) / max(num_negative, 1))
    storage.put_scalar("mask_rcnn/false_negative", num_missed / max(num_positive, 1))


def mask_rcnn_inference(pred_mask_logits: Tensor, pred_instances: Sequence[Instances]) -> None:
    """Give the instances their masks.

    Args:
        pred_mask_logits: see ``mask_rcnn_loss``.
        pred_instances: of each image, with ``pred_classes``. They get ``pred_masks``
            (N, 1, M, M), the probabilities for the predicted class.
    """
    if pred_mask_logits.shape[1] > 1:
        classes = cat([x.pred_classes for x in pred_instances])
        index = torch.arange(len(classes), device=classes.device)
        pred_mask_logits = pred_mask_logits[index, classes][:, None]  # (R, M, M) -> (R, 1, M, M)
    counts = [len(x) for x in pred_instances]
    for masks, x in zip(pred_mask_logits.sigmoid().split(counts), pred_instances, strict=True):
        x.pred_masks = masks


class BaseMaskRCNNHead(nn.Module):
    """Base class of mask heads: loss and inference around the ``layers`` of a subclass.

    Args:
        loss_weight: factor of "loss_mask".
        vis_period: 0. (Detectron2 can log drawings of masks.)
    """

    def __init__(self, *, loss_weight: float = 1.0, vis_period: int = 0):
        super().__init__()
        if vis_period > 0:
            raise NotImplementedError(
                f"{vis_period=} is not in detectron2_lite; install Detectron2"
            )
        self.loss_weight = loss_weight
        self.vis_period = vis_period

    def forward(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """Predict masks.

        Args:
            x: pooled features (R, C, H, W) of the R instances of all images.
            instances: in training as in ``mask_rcnn_loss``, else as in ``mask_rcnn_inference``.

        Returns:
            {"loss_mask": scalar} in training; else ``instances``, which got ``pred_masks``.
        """
        logits = self.layers(x)
        if self.training:
            return {"loss_mask": mask_rcnn_loss(logits, instances) * self.loss_weight}
        mask_rcnn_inference(logits, instances)
        return instances

    def layers(self, x: Tensor) -> Tensor:
        """Mask logits (R, K or 1, M, M) of pooled features (R, C, H, W)."""
        raise NotImplementedError


class MaskRCNNConvUpsampleHead(BaseMaskRCNNHead, nn.Sequential):
    """3x3 convolutions, a transposed convolution that doubles the size, a 1x1 predictor.

    Args:
        input_shape: channels of the pooled features.
        num_classes: K masks per region, or 1 for masks that do not depend on the class.
        conv_dims: output channels of the convolutions, the last of the transposed one.
        conv_norm: of the convolutions, see ``get_norm``; with one they have no bias.
        **kwargs: of ``BaseMaskRCNNHead``.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: Sequence[int],
        conv_norm: str | Callable[[int], nn.Module] = "",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if len(conv_dims) == 0:
            raise ValueError("MaskRCNNConvUpsampleHead needs conv_dims")
        channels = input_shape.channels
        self.conv_norm_relus = []
        for k, dim in enumerate(conv_dims[:-1], start=1):
            conv = same_size_conv(channels, dim, 3, conv_norm, nn.ReLU())
            self.add_module(f"mask_fcn{k}", conv)
            self.conv_norm_relus.append(conv)
            channels = dim
        self.deconv = ConvTranspose2d(channels, conv_dims[-1], kernel_size=2, stride=2)
        self.add_module("deconv_relu", nn.ReLU())
        self.predictor = Conv2d(conv_dims[-1], num_classes, kernel_size=1)
        for module in (*self.conv_norm_relus, self.deconv):
            c2_msra_fill(module)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    def layers(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x
