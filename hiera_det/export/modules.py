"""Exportable modules: a detector, and its backbone, as fixed-size graphs without Python branches.

They take the trained parts of a `GeneralizedRCNN` (real or lite) and compute what its inference
computes. What is different is how: every shape but that of NMS is fixed, for N proposals and D
detections whatever the image; what an image does not fill has a score of 0 and a box of zeros.
"""

import copy
import math
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.poolers import assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.units import UNIT_PIXELS

__all__ = ["ExportableBackbone", "ExportableDetector"]

BLANKS = 2


class ExportableBackbone(nn.Module):
    """The maps of a detector's backbone, FPN's p2 to p6, of square images of pixels."""

    def __init__(self, model: GeneralizedRCNN, side: int):
        """
        Args:
            model: a detector in evaluation mode; it is not changed.
            side: of the square that images are padded to, px.

        Raises:
            ValueError: `side` is no multiple of 32.
        """
        super().__init__()
        self.normalise = Normalise(model, side)
        self.backbone = with_fixed_positions(model.backbone, side)
        self.names = list(model.backbone.output_shape())

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            images: uint8 (B, side, side, C) in the model's input_format, the pixels in the upper
                left, padded with anything.
            sizes: int64 (B, 2), height and width of the pixels of each.

        Returns:
            For each name of `names` a map (B, channels, side / stride, side / stride).
        """
        maps = self.backbone(self.normalise(images, sizes))
        return tuple(maps[name] for name in self.names)


class Normalise(nn.Module):
    """Subtraction of mean and division by standard deviation; 0 outside the pixels."""

    pixel_mean: Tensor  # (C, 1, 1)
    pixel_std: Tensor

    def __init__(self, model: GeneralizedRCNN, side: int):
        super().__init__()
        self.side = side
        self.register_buffer("pixel_mean", model.pixel_mean.clone())
        self.register_buffer("pixel_std", model.pixel_std.clone())

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        """uint8 (B, H, W, C) and int64 (B, 2) to float32 (B, C, H, W), as `ImageList` pads."""
        x = images.permute(0, 3, 1, 2).to(torch.float32)  # (B, H, W, C) -> (B, C, H, W)
        x = (x - self.pixel_mean) / self.pixel_std
        steps = torch.arange(self.side, device=x.device)
        rows, cols = (steps < sizes[:, k, None] for k in (0, 1))  # (B, side) each
        inside = rows[:, :, None] & cols[:, None]  # (B, H, W)
        return torch.where(inside[:, None], x, 0.0)


class ExportableDetector(nn.Module):
    """A two-stage detector of one image: boxes, scores, classes and masks of D detections."""

    def __init__(self, model: GeneralizedRCNN, side: int):
        """
        Args:
            model: a detector in evaluation mode; it is not changed.
            side: of the square that images are padded to, px.

        Raises:
            ValueError: an option of the model that has no place in a fixed graph; names it.
        """
        super().__init__()
        heads = model.roi_heads
        self.stages = _box_stages(heads)
        self.num_detections = self.stages[-1][1].test_topk_per_image
        _check(model, self.num_detections)
        self.normalise = Normalise(model, side)
        self.backbone = with_fixed_positions(model.backbone, side)
        self.rpn: Any = model.proposal_generator
        self.heads: Any = heads
        strides = [model.backbone.output_shape()[name].stride for name in self.rpn.in_features]
        empty = model.pixel_mean.new_zeros(1)
        grids = [empty.expand(1, 1, math.ceil(side / s), math.ceil(side / s)) for s in strides]
        for level, anchors in enumerate(self.rpn.anchor_generator(grids)):
            self.register_buffer(f"anchors{level}", anchors.tensor.clone())

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            image: uint8 (side, side, C) in the model's input_format, the pixels in the upper left,
                padded with anything.
            size: int64 (2,), height and width of the pixels.

        Returns:
            By falling score, boxes float32 (D, 4) in px of `image`; scores float32 (D,), 0 where
            there is no further detection; classes int64 (D,); with a mask head masks float32
            (D, M, M), probabilities that span the boxes.
        """
        maps = self.backbone(self.normalise(image[None], size[None]))
        proposals, exist = self._propose(maps, size)
        boxes, scores = self._score(maps, proposals, exist, size)
        boxes, scores, classes = self._select(boxes, scores)
        if not self.heads.mask_on:
            return boxes, scores, classes
        return boxes, scores, classes, self._masks(maps, boxes, scores, classes)

    def _propose(self, maps: dict[str, Tensor], size: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, 4) of the RPN by falling score, and whether there are so many, bool (N,)."""
        logits, deltas = self.rpn.rpn_head([maps[name] for name in self.rpn.in_features])
        all_boxes, all_logits = [], []
        for level, (logit, delta) in enumerate(zip(logits, deltas, strict=True)):
            anchors = getattr(self, f"anchors{level}")
            logit = logit[0].permute(1, 2, 0).flatten()  # (1, A, H, W) -> (H * W * A,)
            # (1, A * 4, H, W) -> (A, 4, H, W) -> (H, W, A, 4) -> (H * W * A, 4)
            delta = delta[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
            count = min(self.rpn.pre_nms_topk[False], len(anchors))
            logit, top = logit.topk(count)
            boxes = self.rpn.box2box_transform.apply_deltas(delta[top], anchors[top])
            boxes = clip(boxes, size)
            width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
            exists = (width > self.rpn.min_box_size) & (height > self.rpn.min_box_size)
            boxes, logit = with_blanks(torch.where(exists[:, None], boxes, 0.0), logit)
            kept = nms(boxes, logit, self.rpn.nms_thresh)
            best = torch.full_like(logit, -math.inf).scatter(0, kept, logit[kept])[:count]
            all_logits.append(torch.where(exists, best, -math.inf))
            all_boxes.append(boxes[:count])
        joined = torch.cat(all_logits)
        logit, top = joined.topk(min(self.rpn.post_nms_topk[False], len(joined)))
        exist = logit > -math.inf
        return torch.where(exist[:, None], torch.cat(all_boxes)[top], 0.0), exist

    def _score(
        self, maps: dict[str, Tensor], boxes: Tensor, exist: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, K or 1, 4) and scores (N, K) of proposals (N, 4), by one stage or a cascade."""
        features = [maps[name] for name in self.heads.box_in_features]
        total: Any = 0.0
        for head, predictor in self.stages:
            boxes = clip(boxes[:, :4], size)  # of the stage before; proposals are clipped
            logits, deltas = predictor(head(pool(self.heads.box_pooler, features, boxes, exist)))
            boxes = predictor.box2box_transform.apply_deltas(deltas, boxes)  # (N, K * 4 or 4)
            total = total + logits.softmax(dim=-1)
        scores = total * (1.0 / len(self.stages)) if len(self.stages) > 1 else total
        boxes = clip(boxes.unflatten(1, (-1, 4)), size)
        return boxes, torch.where(exist[:, None], scores[:, :-1], 0.0)

    def _select(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The D best pairs of box and class, by NMS within each class."""
        num_classes = scores.shape[1]
        boxes = boxes.expand(-1, num_classes, -1).reshape(-1, 4)  # (N, K or 1, 4) -> (N * K, 4)
        boxes, scores = with_blanks(boxes, scores.flatten())
        is_blank = torch.arange(len(scores), device=scores.device) >= len(scores) - BLANKS
        above = scores > self.stages[-1][1].test_score_thresh
        chosen = (above | is_blank).nonzero()[:, 0]
        candidates, classes = boxes[chosen], chosen % num_classes
        # Classes are moved apart, so that boxes of two of them never meet: torchvision's
        # `batched_nms`, to the last bit where it does so too (1000 candidates or fewer).
        apart = candidates + (classes.to(candidates) * (candidates.max() + 1))[:, None]
        kept = chosen[nms(apart, scores[chosen], self.stages[-1][1].test_nms_thresh)]
        best = torch.zeros_like(scores).scatter(0, kept, scores[kept])
        best, top = best.topk(min(self.num_detections, len(best)))
        exist = best > 0
        boxes = torch.where(exist[:, None], boxes[top], 0.0)
        return boxes, best, torch.where(exist, top % num_classes, 0)

    def _masks(
        self, maps: dict[str, Tensor], boxes: Tensor, scores: Tensor, classes: Tensor
    ) -> Tensor:
        """Probabilities (D, M, M) of the predicted classes."""
        features = [maps[name] for name in self.heads.mask_in_features]
        logits = self.heads.mask_head.layers(
            pool(self.heads.mask_pooler, features, boxes, scores > 0)
        )
        if logits.shape[1] == 1:
            return logits[:, 0].sigmoid()
        index = classes[:, None, None, None].expand(-1, 1, *logits.shape[2:])
        return logits.gather(1, index)[:, 0].sigmoid()  # (D, K, M, M) -> (D, M, M)


# ---------------------------------------------------------------------------------- parts
def with_fixed_positions(backbone: nn.Module, side: int) -> nn.Module:
    """A copy whose trunk's position embedding is a constant, made for square images.

    Bicubic interpolation inside of the graph would be computed anew for each image.

    Raises:
        ValueError: `side` is no multiple of 32.
    """
    if side < 1 or side % UNIT_PIXELS:
        raise ValueError(f"image size {side}: give a multiple of {UNIT_PIXELS} px")
    backbone = copy.deepcopy(backbone).eval()
    grid = (side // UNIT_PIXELS, side // UNIT_PIXELS)
    for module in backbone.modules():
        if isinstance(module, Hiera):
            trunk: Any = module
            table = trunk.position_units(grid).detach().clone()  # (1, U, 64, C)
            trunk.register_buffer("fixed_positions", table)
            trunk.position_units = lambda grid, trunk=trunk: trunk.fixed_positions
    return backbone


def with_blanks(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) and scores (N,) with `BLANKS` boxes of zeros and scores of 0 at the end.

    NMS keeps boxes of zeros, and they suppress none. A graph that torch traces with some boxes
    takes it for granted that there are 2 at least.
    """
    return (
        torch.cat([boxes, boxes.new_zeros(BLANKS, 4)]),
        torch.cat([scores, scores.new_zeros(BLANKS)]),
    )


def clip(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes (..., 4) inside of an image of size (2,), height and width."""
    height, width = size.to(boxes.dtype).unbind()
    limit = torch.stack([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0.0), limit)


def pool(pooler: Any, maps: list[Tensor], boxes: Tensor, exist: Tensor) -> Tensor:
    """`ROIPooler` of one image's boxes: each is pooled from its level.

    Args:
        boxes: (N, 4).
        exist: bool (N,); of others the result is 0, and costs nothing.

    Returns:
        (N, C, *output_size).
    """
    levels = assign_boxes_to_levels(
        [Boxes(boxes)],
        pooler.min_level,
        pooler.max_level,
        pooler.canonical_box_size,
        pooler.canonical_level,
    )
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)  # (N, 5), of image 0
    rois = torch.cat([rois, rois.new_zeros(BLANKS, 5)])
    pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], *pooler.output_size)
    for level, (features, align) in enumerate(zip(maps, pooler.level_poolers, strict=True)):
        here = torch.cat([(levels == level) & exist, exist.new_ones(BLANKS)])
        (rows,) = here.nonzero(as_tuple=True)
        values = roi_align(
            features,
            rois[rows],
            pooler.output_size,
            align.spatial_scale,
            align.sampling_ratio,
            align.aligned,
        )
        pooled = pooled.index_put((rows,), values)
    return pooled[: len(boxes)]


def _box_stages(heads: Any) -> list[tuple[Any, Any]]:
    """(head, predictor) of each stage of a cascade, or of the only one."""
    if isinstance(heads.box_head, nn.ModuleList):
        return list(zip(heads.box_head, heads.box_predictor, strict=True))
    return [(heads.box_head, heads.box_predictor)]


def _check(model: GeneralizedRCNN, num_detections: int) -> None:
    if num_detections < 1:
        raise ValueError(
            f"test_topk_per_image={num_detections}: a fixed graph needs a number, at least 1"
        )
    for _, predictor in _box_stages(model.roi_heads):
        if getattr(predictor, "use_sigmoid_ce", False):
            raise ValueError("use_sigmoid_ce=True: only detectors with a softmax can be exported")
    if getattr(model.roi_heads, "keypoint_on", False):
        raise ValueError("keypoints: only boxes and masks can be exported")
