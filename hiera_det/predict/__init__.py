"""From weights to detections: `Predictor` for images in memory, `predict_files` for folders."""

from .folder import predict_files
from .inputs import find_inputs
from .predictor import Predictor, open_predictor

__all__ = ["Predictor", "find_inputs", "open_predictor", "predict_files"]
