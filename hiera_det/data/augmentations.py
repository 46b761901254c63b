"""Augmentations beyond Detectron2's."""

import numpy as np
from detectron2.data.transforms import Augmentation
from fvcore.transforms.transform import CropTransform, Transform

__all__ = ["RandomSquareCrop"]


class RandomSquareCrop(Augmentation):
    """A square anywhere in the image; a side that is shorter is kept whole.

    Detectron2's FixedSizeCrop draws one number for both axes, so its crops lie on the diagonal of
    the image: the other corners are never seen.
    """

    def __init__(self, size: int):
        """
        Args:
            size: of a side, px.
        """
        super().__init__()
        self.size = size

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        h, w = min(height, self.size), min(width, self.size)
        y = np.random.randint(height - h + 1)
        x = np.random.randint(width - w + 1)
        return CropTransform(x, y, w, h, width, height)
