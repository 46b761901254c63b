"""Dataset mapper: dataset dicts to inputs of the model; pixels of any depth, masks of any kind."""

import copy
from collections.abc import Sequence
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetMapper as Detectron2Mapper
from detectron2.data import detection_utils
from detectron2.structures import BoxMode

from .images import read_image, valid_range

__all__ = ["DatasetMapper"]

MARGIN = 2.0  # px by which resizing may widen a mask


class DatasetMapper(Detectron2Mapper):
    """Detectron2's mapper of boxes and masks, which reads with `hiera_det.data.images.read_image`.

    With 8-bit images and polygons its results are Detectron2's. Beyond it: images of 16 bits and
    floats, RLE masks of objects without a key that says so, and images whose annotations are all
    crowds. Keypoints, proposals and semantic segmentation need Detectron2's own.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[Any],
        image_format: str,
        use_instance_mask: bool = False,
        instance_mask_format: str | None = None,
        recompute_boxes: bool = False,
        intensity_range: Sequence[float] | None = None,
        page: int | None = None,
    ):
        """
        Args:
            is_train: False leaves out the annotations.
            augmentations: of Detectron2, applied in this order to image and annotations.
            image_format: "RGB", "BGR" or "L"; the model's input_format.
            use_instance_mask: keep the masks.
            instance_mask_format: "polygon", "bitmask", or None: as the annotations of each image
                have it, bitmask as soon as one of its objects has an RLE.
            recompute_boxes: take the boxes from the transformed masks, which are tight after a
                crop; transformed boxes are not.
            intensity_range, page: see `hiera_det.data.images.open_image`.
        """
        super().__init__(
            is_train,
            augmentations=augmentations,
            image_format=image_format,
            use_instance_mask=use_instance_mask,
            instance_mask_format=instance_mask_format or "polygon",
            recompute_boxes=recompute_boxes,
        )
        self.instance_mask_format = instance_mask_format
        self.intensity_range, self.page = valid_range(intensity_range), page

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            dataset_dict: of one image, as Detectron2's datasets have it; it is not changed.

        Returns:
            A dict with "image", uint8 (C, H, W), in training with "instances", and what else the
            given one holds.

        Raises:
            FileNotFoundError, ValueError: see `read_image`; or an annotation does not fit the
                image. Names the file.
        """
        dataset_dict = copy.deepcopy(dataset_dict)
        name = dataset_dict["file_name"]
        image = read_image(name, self.image_format, self.intensity_range, self.page)
        detection_utils.check_image_size(dataset_dict, image)
        aug_input = T.AugInput(image, boxes=self._boxes(dataset_dict))
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        # Contiguous: views are slow to share with the main process.
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1))  # (H, W, C) -> (C, H, W)
        dataset_dict["image"] = torch.as_tensor(pixels)
        annotations = dataset_dict.pop("annotations", None)
        if self.is_train and annotations is not None:
            try:
                instances = self._instances(annotations, transforms, image.shape[:2])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            dataset_dict["instances"] = instances
        return dataset_dict

    def _boxes(self, dataset_dict: dict[str, Any]) -> np.ndarray | None:
        """The objects, for augmentations that look where they are: float (N, 4), corners in px."""
        if not self.is_train:
            return None
        objects = [a for a in dataset_dict.get("annotations", ()) if a.get("iscrowd", 0) == 0]
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
        return np.array(boxes, dtype=np.float64).reshape(-1, 4)

    def _instances(self, annotations: list[dict], transforms: Any, size: tuple[int, int]):
        """Annotations of the original image to `Instances` in the augmented one of (H, W)."""
        annotations = [a for a in annotations if a.get("iscrowd", 0) == 0]
        for annotation in annotations:
            annotation.pop("keypoints", None)
            if not self.use_instance_mask:
                annotation.pop("segmentation", None)
            elif annotation.get("segmentation") is None:
                raise ValueError(
                    "an object has no 'segmentation', but masks are trained; annotate it, or train "
                    "boxes alone (use_instance_mask and recompute_boxes False, no mask head)"
                )
        is_rle = any(isinstance(a.get("segmentation"), dict) for a in annotations)
        mask_format = self.instance_mask_format or ("bitmask" if is_rle else "polygon")
        left = [a for a in annotations if not _is_cropped_away(a, transforms, size)]
        annotations = left or annotations[:1]  # whose fields an empty result has too
        for annotation in annotations:
            detection_utils.transform_instance_annotations(annotation, transforms, size)
            mask = annotation.get("segmentation")
            if isinstance(mask, np.ndarray):
                annotation["segmentation"] = mask == 1  # a crop pads with 255: outside the image
        instances = detection_utils.annotations_to_instances(annotations, size, mask_format)
        if self.recompute_boxes and len(instances):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return detection_utils.filter_empty_instances(instances)


def _is_cropped_away(annotation: dict, transforms: Any, size: tuple[int, int]) -> bool:
    """Whether no pixel of an RLE mask can be left in the augmented image of (H, W).

    Such an object would be dropped in the end; to find that out by its mask takes a hundred times
    as long, and a crop of a dense image leaves most objects outside.
    """
    rle = annotation.get("segmentation")
    if not isinstance(rle, dict):
        return False
    if isinstance(rle["counts"], list):
        return False
    x, y, width, height = mask_util.toBbox(rle)
    x0, y0, x1, y1 = transforms.apply_box(np.array([[x, y, x + width, y + height]]))[0]
    return x1 < -MARGIN or y1 < -MARGIN or x0 > size[1] + MARGIN or y0 > size[0] + MARGIN
