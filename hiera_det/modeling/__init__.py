"""The trunk, and its Detectron2 side in `hiera_det.modeling.backbone`.

Only the torch-only part is imported here, so that classification and pretraining need no
Detectron2.
"""

from .classifier import HieraClassifier, build_classifier
from .hiera import Hiera
from .variants import VARIANTS, build_detection_hiera, build_hiera

__all__ = [
    "VARIANTS",
    "Hiera",
    "HieraClassifier",
    "build_classifier",
    "build_detection_hiera",
    "build_hiera",
]
