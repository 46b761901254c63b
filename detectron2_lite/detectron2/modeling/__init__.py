"""Models."""

from detectron2 import absent_attributes

from .anchor_generator import ANCHOR_GENERATOR_REGISTRY
from .backbone import (
    BACKBONE_REGISTRY,
    FPN,
    Backbone,
    SimpleFeaturePyramid,
    build_backbone,
    get_vit_lr_decay_rate,
)
from .meta_arch import META_ARCH_REGISTRY, GeneralizedRCNN
from .postprocessing import detector_postprocess
from .proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN_HEAD_REGISTRY
from .roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    BaseMaskRCNNHead,
    FastRCNNOutputLayers,
    ROIHeads,
    StandardROIHeads,
)
from .test_time_augmentation import DatasetMapperTTA, GeneralizedRCNNWithTTA

__all__ = [
    "ANCHOR_GENERATOR_REGISTRY",
    "BACKBONE_REGISTRY",
    "Backbone",
    "BaseMaskRCNNHead",
    "DatasetMapperTTA",
    "FPN",
    "FastRCNNOutputLayers",
    "GeneralizedRCNN",
    "GeneralizedRCNNWithTTA",
    "META_ARCH_REGISTRY",
    "PROPOSAL_GENERATOR_REGISTRY",
    "ROIHeads",
    "ROI_BOX_HEAD_REGISTRY",
    "ROI_HEADS_REGISTRY",
    "ROI_MASK_HEAD_REGISTRY",
    "RPN_HEAD_REGISTRY",
    "SimpleFeaturePyramid",
    "StandardROIHeads",
    "build_backbone",
    "detector_postprocess",
    "get_vit_lr_decay_rate",
]

__getattr__ = absent_attributes(__name__)
