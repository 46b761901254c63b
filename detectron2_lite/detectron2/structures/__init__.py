"""Data structures for boxes, masks and the instances of an image."""

from detectron2 import absent_attributes

from .boxes import Boxes, BoxMode, pairwise_iou
from .image_list import ImageList
from .instances import Instances
from .masks import BitMasks, PolygonMasks, ROIMasks, polygons_to_bitmask

__all__ = [
    "BitMasks",
    "BoxMode",
    "Boxes",
    "ImageList",
    "Instances",
    "PolygonMasks",
    "ROIMasks",
    "pairwise_iou",
    "polygons_to_bitmask",
]

__getattr__ = absent_attributes(__name__)
