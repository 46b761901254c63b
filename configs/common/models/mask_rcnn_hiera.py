"""Mask R-CNN with FPN over Hiera (arXiv 2306.00989, appendix A.2): two convolutions in the RPN,
four with LayerNorm in the box and mask heads, 1024 px square padding."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)

from hiera_det.modeling.backbone import HieraBackbone
from hiera_det.modeling.pixels import IMAGENET_MEAN, IMAGENET_STD
from hiera_det.modeling.poolers import Float32ROIPooler
from hiera_det.modeling.variants import build_detection_hiera

_POOLER = dict(scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32), sampling_ratio=0, pooler_type="ROIAlignV2")

model = L(GeneralizedRCNN)(
    backbone=L(FPN)(
        bottom_up=L(HieraBackbone)(
            trunk=L(build_detection_hiera)(
                variant="hiera_b",
                window_size=None,  # None is the variant's, here and below
                global_attn_blocks=None,
                pos_embed="absolute_win",
                pos_embed_size=None,
                drop_path_rate=None,
                act_checkpoint=False,
            ),
            out_features=["scale2", "scale3", "scale4", "scale5"],
            norm="LN",
            freeze_at=0,
        ),
        in_features="${.bottom_up.out_features}",
        out_channels=256,
        norm="LN",
        top_block=L(LastLevelMaxPool)(),
        square_pad="${dataloader.image_size}",
    ),
    proposal_generator=L(RPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(StandardRPNHead)(in_channels=256, num_anchors=3, conv_dims=[-1, -1]),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32], [64], [128], [256], [512]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=(2000, 1000),  # training, test
        post_nms_topk=(1000, 1000),
        nms_thresh=0.7,
    ),
    roi_heads=L(StandardROIHeads)(
        num_classes=80,
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=L(Float32ROIPooler)(output_size=7, **_POOLER),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=ShapeSpec(channels=256, height=7, width=7),
            conv_dims=[256, 256, 256, 256],
            fc_dims=[1024],
            conv_norm="LN",
        ),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=ShapeSpec(channels=1024),
            test_score_thresh=0.05,
            box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
            num_classes="${..num_classes}",
        ),
        mask_in_features=["p2", "p3", "p4", "p5"],
        mask_pooler=L(Float32ROIPooler)(output_size=14, **_POOLER),
        mask_head=L(MaskRCNNConvUpsampleHead)(
            input_shape=ShapeSpec(channels=256, width=14, height=14),
            num_classes="${..num_classes}",
            conv_dims=[256, 256, 256, 256, 256],  # four, and the transposed one
            conv_norm="LN",
        ),
    ),
    # of the pretraining, on the 0 to 255 scale of the data
    pixel_mean=[*IMAGENET_MEAN],
    pixel_std=[*IMAGENET_STD],
    input_format="RGB",
)
