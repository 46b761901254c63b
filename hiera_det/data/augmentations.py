"""Augmentations beyond Detectron2's."""

import numpy as np
from detectron2.data.transforms import Augmentation
from fvcore.transforms.transform import CropTransform, Transform

__all__ = ["RandomObjectCrop"]


class RandomObjectCrop(Augmentation):
    """A square that holds the centre of an object, drawn at random; a shorter side is kept whole.

    Every crop teaches something, however few objects there are on a large image, and dense parts
    come more often. (Detectron2's FixedSizeCrop knows of no objects, and draws one number for both
    axes: its crops lie on the diagonal of the image, and the other corners are never seen.) An
    image without objects is cropped anywhere.
    """

    def __init__(self, size: int):
        """
        Args:
            size: of a side, px.
        """
        super().__init__()
        self.size = size

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> Transform:
        """
        Args:
            image: (H, W) or (H, W, C).
            boxes: (N, 4), x0, y0, x1, y1 in px, or None.
        """
        height, width = image.shape[:2]
        center = None
        if boxes is not None and len(boxes):
            box = boxes[np.random.randint(len(boxes))]
            center = (box[:2] + box[2:]) / 2
        w, h = min(width, self.size), min(height, self.size)
        x = self._offset(width, w, None if center is None else center[0])
        y = self._offset(height, h, None if center is None else center[1])
        return CropTransform(x, y, w, h, width, height)

    @staticmethod
    def _offset(length: int, kept: int, center: float | None) -> int:
        """Where the crop begins on an axis: uniform among those that hold the centre."""
        low, high = 0, length - kept
        if center is not None:
            low = min(max(low, int(np.ceil(center)) - kept), high)
            high = max(min(high, int(np.floor(center))), low)
        return int(np.random.randint(low, high + 1))
