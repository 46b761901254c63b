"""Tiny models used by the golden values.

Only public `detectron2.*` import paths are used, so the file runs unchanged on real
Detectron2 and on a compatible stand-in.  No ViT, timm or model_zoo is needed.
"""

import zlib

import numpy as np
import torch
import torch.nn as nn
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, Backbone, SimpleFeaturePyramid
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)

C, K = 16, 3


class Toy4(Backbone):
    """Hierarchical backbone: features s2..s5, strides 4..32."""

    def __init__(self, dims=(8, 12, 16, 24), out_features=("s2", "s3", "s4", "s5")):
        super().__init__()
        self.stages = nn.ModuleList()
        c = 3
        for i, d in enumerate(dims):
            k = 4 if i == 0 else 2
            self.stages.append(
                nn.Sequential(nn.Conv2d(c, d, k, k), nn.GELU(), nn.Conv2d(d, d, 3, padding=1))
            )
            c = d
        self._out_features = list(out_features)
        self._out_feature_strides = {f"s{i + 2}": 4 * 2**i for i in range(4)}
        self._out_feature_channels = {f"s{i + 2}": d for i, d in enumerate(dims)}

    def forward(self, x):
        out = {}
        for i, s in enumerate(self.stages):
            x = s(x)
            out[f"s{i + 2}"] = x
        return {k: v for k, v in out.items() if k in self._out_features}


class Toy1(Backbone):
    """Single-scale backbone: feature 'last', stride 16 (stands where a ViT would)."""

    def __init__(self, dim=16):
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 16, 16)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm = nn.GroupNorm(1, dim, eps=1e-6)
        self._out_features = ["last"]
        self._out_feature_strides = {"last": 16}
        self._out_feature_channels = {"last": dim}

    def forward(self, x):
        return {"last": self.norm(self.conv(torch.tanh(self.patch(x))))}


def _heads(norm, n_rpn_conv, agnostic=False, roi_batch=48):
    rpn = L(RPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(StandardRPNHead)(in_channels=C, num_anchors=3, conv_dims=[-1] * n_rpn_conv),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[16], [32], [64], [128], [256]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=64,
        positive_fraction=0.5,
        pre_nms_topk=(300, 150),
        post_nms_topk=(100, 40),
        nms_thresh=0.7,
    )
    pool = dict(
        scales=(1.0 / 4, 1.0 / 8, 1.0 / 16, 1.0 / 32), sampling_ratio=0, pooler_type="ROIAlignV2"
    )
    roi = L(StandardROIHeads)(
        num_classes=K,
        batch_size_per_image=roi_batch,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=L(ROIPooler)(output_size=7, **pool),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=ShapeSpec(channels=C, height=7, width=7),
            conv_dims=[C] if norm else [],
            fc_dims=[32],
            conv_norm=norm,
        ),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=ShapeSpec(channels=32),
            test_score_thresh=0.05,
            box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
            num_classes="${..num_classes}",
            cls_agnostic_bbox_reg=agnostic,
        ),
        mask_in_features=["p2", "p3", "p4", "p5"],
        mask_pooler=L(ROIPooler)(output_size=14, **pool),
        mask_head=L(MaskRCNNConvUpsampleHead)(
            input_shape=ShapeSpec(channels=C, width=14, height=14),
            num_classes="${..num_classes}",
            conv_dims=[C, C],
            conv_norm=norm,
        ),
    )
    return rpn, roi


def _rcnn(backbone, rpn, roi):
    return L(GeneralizedRCNN)(
        backbone=backbone,
        proposal_generator=rpn,
        roi_heads=roi,
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
        input_format="RGB",
    )


def fpn_mask_rcnn():
    """Mask R-CNN, FPN without norm, one RPN conv, class-specific boxes, size_divisibility."""
    bb = L(FPN)(
        bottom_up=L(Toy4)(),
        in_features=["s2", "s3", "s4", "s5"],
        out_channels=C,
        top_block=L(LastLevelMaxPool)(),
    )
    return _rcnn(bb, *_heads("", 1))


def fpn_ln_square():
    """Mask R-CNN as in ViTDet's recipe: FPN norm LN, square_pad, 2-conv RPN, LN heads."""
    bb = L(FPN)(
        bottom_up=L(Toy4)(),
        in_features=["s2", "s3", "s4", "s5"],
        out_channels=C,
        norm="LN",
        top_block=L(LastLevelMaxPool)(),
        square_pad=256,
    )
    return _rcnn(bb, *_heads("LN", 2))


def sfp_mask_rcnn():
    """Mask R-CNN on SimpleFeaturePyramid over a single-scale backbone.

    roi_batch exceeds the number of proposals, so the losses do not depend on the order of
    near-tied proposals.
    """
    bb = L(SimpleFeaturePyramid)(
        net=L(Toy1)(),
        in_feature="last",
        out_channels=C,
        scale_factors=(4.0, 2.0, 1.0, 0.5),
        top_block=L(LastLevelMaxPool)(),
        norm="LN",
        square_pad=256,
    )
    return _rcnn(bb, *_heads("LN", 2, roi_batch=512))


def cascade():
    """Cascade Mask R-CNN on fpn_ln_square's backbone."""
    cfg = fpn_ln_square()
    for k in ("box_head", "box_predictor", "proposal_matcher"):
        cfg.roi_heads.pop(k)
    cfg.roi_heads.update(
        _target_=CascadeROIHeads,
        box_heads=[
            L(FastRCNNConvFCHead)(
                input_shape=ShapeSpec(channels=C, height=7, width=7),
                conv_dims=[C],
                fc_dims=[32],
                conv_norm="LN",
            )
            for _ in range(3)
        ],
        box_predictors=[
            L(FastRCNNOutputLayers)(
                input_shape=ShapeSpec(channels=32),
                test_score_thresh=0.05,
                box2box_transform=L(Box2BoxTransform)(weights=(w1, w1, w2, w2)),
                cls_agnostic_bbox_reg=True,
                num_classes="${...num_classes}",
            )
            for (w1, w2) in [(10, 5), (20, 10), (30, 15)]
        ],
        proposal_matchers=[
            L(Matcher)(thresholds=[t], labels=[0, 1], allow_low_quality_matches=False)
            for t in [0.5, 0.6, 0.7]
        ],
    )
    return cfg


MODELS = {"fpn": fpn_mask_rcnn, "fpn_ln": fpn_ln_square, "sfp": sfp_mask_rcnn, "cascade": cascade}


# overall weight gain per model, chosen so that scores spread over (0, 1)
GAIN = {"fpn": 0.9, "fpn_ln": 1.4, "sfp": 1.4, "cascade": 1.4}


def seeded_tensor(key, shape, gain=1.4):
    """Weights by formula: RandomState(crc32(key)).standard_normal, scaled by role."""
    z = (
        np.random.RandomState(zlib.crc32(key.encode()))
        .standard_normal(tuple(shape))
        .astype(np.float32)
    )
    if len(shape) == 1:
        return (1 + 0.1 * z) if key.endswith("norm.weight") else 0.05 * z
    fan_in = int(np.prod(shape[1:]))
    if "anchor_deltas" in key:
        gain = 0.1
    elif "bbox_pred" in key:
        gain = 0.3
    elif "objectness" in key or "cls_score" in key or "mask_head.predictor" in key:
        gain = 4.0
    return (gain / np.sqrt(fan_in)) * z


def load_seeded(model, name="fpn_ln"):
    """Fill every state_dict entry with seeded_tensor(key, shape, GAIN[name])."""
    sd = {
        k: np.ascontiguousarray(seeded_tensor(k, v.shape, GAIN[name]).astype(np.float32))
        for k, v in model.state_dict().items()
    }
    model.load_state_dict({k: torch.from_numpy(v) for k, v in sd.items()})
    return model


def block_image(seed, h, w):
    """uint8 HWC image of random 16x16 blocks (exact, no resampling)."""
    r = np.random.RandomState(seed).randint(0, 256, (h // 16, w // 16, 3)).astype(np.uint8)
    return np.kron(r, np.ones((16, 16, 1), np.uint8))
