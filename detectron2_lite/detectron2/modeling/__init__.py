"""Models."""

from detectron2 import absent_attributes

from .backbone import BACKBONE_REGISTRY, FPN, Backbone, SimpleFeaturePyramid
from .meta_arch import GeneralizedRCNN
from .postprocessing import detector_postprocess
from .roi_heads import BaseMaskRCNNHead, FastRCNNOutputLayers, ROIHeads, StandardROIHeads

__all__ = [
    "BACKBONE_REGISTRY",
    "Backbone",
    "BaseMaskRCNNHead",
    "FPN",
    "FastRCNNOutputLayers",
    "GeneralizedRCNN",
    "ROIHeads",
    "SimpleFeaturePyramid",
    "StandardROIHeads",
    "detector_postprocess",
]

__getattr__ = absent_attributes(__name__)
