"""From a dataset dict to an input of the model."""

import copy
import logging
from collections.abc import Sequence

import numpy as np
import torch
from detectron2 import absent_message
from detectron2.data import detection_utils as utils
from detectron2.data.transforms import AugInput, Augmentation, AugmentationList
from fvcore.transforms.transform import Transform, TransformList

__all__ = ["DatasetMapper"]

logger = logging.getLogger(__name__)


class DatasetMapper:
    """Read the image of a dataset dict, augment it, and make tensors.

    Args:
        is_train: False leaves out the annotations.
        augmentations: applied in this order, to the image and to the annotations.
        image_format: of ``read_image``, "RGB" or "BGR". The model's ``pixel_mean`` and
            ``input_format`` must be in the same order of channels.
        use_instance_mask: keep the masks.
        instance_mask_format: "polygon" or "bitmask" (which RLE masks need).
        recompute_boxes: take the boxes from the transformed masks, which are tight after a crop;
            transformed boxes are not.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[Augmentation | Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices: np.ndarray | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
    ) -> None:
        if use_keypoint or keypoint_hflip_indices is not None or precomputed_proposal_topk:
            raise NotImplementedError(
                absent_message("DatasetMapper with keypoints or precomputed proposals")
            )
        if recompute_boxes and not use_instance_mask:
            raise ValueError(
                "recompute_boxes=True takes boxes from masks and needs use_instance_mask=True"
            )
        self.is_train = is_train
        self.augmentations = AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes
        mode = "training" if is_train else "inference"
        logger.info("Augmentations used in %s: %s", mode, self.augmentations)

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Args:
            dataset_dict: ``file_name`` and, for training, ``annotations``; it is not changed.

        Returns:
            the dict with ``image``, uint8 (C, H, W) in ``image_format``, ``height`` and ``width``
            of the image before augmentation, and in training ``instances`` in place of
            ``annotations``. Crowds are left out.

        Raises:
            FileNotFoundError, ValueError: the image or an annotation cannot be used.
        """
        dataset_dict = copy.deepcopy(dataset_dict)
        if "sem_seg_file_name" in dataset_dict:
            raise NotImplementedError(absent_message("DatasetMapper with sem_seg_file_name"))
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        aug_input = AugInput(image)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        # Contiguous: sharing a strided view with the main process is slow.
        channels_first = np.ascontiguousarray(image.transpose(2, 0, 1))  # (H, W, C) -> (C, H, W)
        dataset_dict["image"] = torch.as_tensor(channels_first)

        if not self.is_train:
            dataset_dict.pop("annotations", None)
        elif "annotations" in dataset_dict:
            try:
                self._transform_annotations(dataset_dict, transforms, image.shape[:2])
            except ValueError as e:
                raise ValueError(f"{dataset_dict['file_name']}: {e}") from e
        return dataset_dict

    def _transform_annotations(
        self, dataset_dict: dict, transforms: TransformList, image_shape: tuple[int, int]
    ) -> None:
        """Replace ``annotations`` by ``instances`` in the augmented image, of (height, width)."""
        annos = [a for a in dataset_dict.pop("annotations") if a.get("iscrowd", 0) == 0]
        for anno in annos:
            anno.pop("keypoints", None)
            if not self.use_instance_mask:
                anno.pop("segmentation", None)
            utils.transform_instance_annotations(anno, transforms, image_shape)
        instances = utils.annotations_to_instances(annos, image_shape, self.instance_mask_format)
        if self.recompute_boxes and len(instances):
            # The cut-off part of an object is still inside its transformed box; the mask knows.
            if not instances.has("gt_masks"):
                raise ValueError(
                    "recompute_boxes=True, but no instance has a segmentation; set "
                    "recompute_boxes=False and use_instance_mask=False to train without masks"
                )
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = utils.filter_empty_instances(instances)
