"""Test-time augmentation: detect at several scales and mirrored, and merge."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import (
    AugInput,
    AugmentationList,
    HFlipTransform,
    NoOpTransform,
    RandomFlip,
    ResizeShortestEdge,
    ResizeTransform,
    TransformList,
)
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .meta_arch import GeneralizedRCNN
from .postprocessing import detector_postprocess
from .roi_heads.fast_rcnn import fast_rcnn_inference_single_image

__all__ = ["DatasetMapperTTA", "GeneralizedRCNNWithTTA"]


class DatasetMapperTTA:
    """Makes several versions of an image.

    Args:
        min_sizes: lengths in pixels of the shorter side, one version each.
        max_size: bound in pixels of the longer side.
        flip: also mirror each version.
    """

    def __init__(self, min_sizes: Sequence[int], max_size: int, flip: bool):
        self.min_sizes = min_sizes
        self.max_size = max_size
        self.flip = flip

    def __call__(self, dataset_dict: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The versions of one input.

        Args:
            dataset_dict: "image", a uint8 tensor (C, H, W); "height" and "width", the size of
                the original image, of which it may be a resized one.

        Returns:
            copies of ``dataset_dict`` with their "image", and "transforms" (a TransformList) that
            take coordinates from the original image to it.
        """
        image = dataset_dict["image"].permute(1, 2, 0).cpu().numpy()  # (C, H, W) -> (H, W, C)
        size, original = image.shape[:2], (dataset_dict["height"], dataset_dict["width"])
        before = NoOpTransform() if size == original else ResizeTransform(*original, *size)
        versions = []
        for min_size in self.min_sizes:
            resize = ResizeShortestEdge(min_size, self.max_size)
            for augmentations in [[resize], [resize, RandomFlip(prob=1.0)]][: 1 + bool(self.flip)]:
                view = AugInput(image)
                transforms = AugmentationList(augmentations)(view)
                version = copy.deepcopy({k: v for k, v in dataset_dict.items() if k != "image"})
                # (H', W', C) -> (C, H', W')
                version["image"] = torch.from_numpy(np.array(view.image.transpose(2, 0, 1)))
                version["transforms"] = TransformList([before]) + transforms
                versions.append(version)
        return versions


class GeneralizedRCNNWithTTA(nn.Module):
    """A ``GeneralizedRCNN`` in evaluation mode, run on several versions of each image.

    Boxes of all versions are merged by NMS. Masks are predicted for the merged boxes on every
    version, and averaged.

    Args:
        cfg: None, or a config whose ``TEST.AUG.{MIN_SIZES,MAX_SIZE,FLIP}`` make the mapper.
            Thresholds are those of the model itself.
        model: the detector, may be wrapped in DistributedDataParallel.
        tta_mapper: makes the versions, see ``DatasetMapperTTA``.
        batch_size: versions that go through the model at once.
    """

    def __init__(
        self,
        cfg: Any,
        model: nn.Module,
        tta_mapper: DatasetMapperTTA | None = None,
        batch_size: int = 3,
    ):
        super().__init__()
        if isinstance(model, DistributedDataParallel):
            model = model.module
        if not isinstance(model, GeneralizedRCNN):
            raise ValueError(f"GeneralizedRCNNWithTTA of a {type(model).__name__}")
        if tta_mapper is None:
            if cfg is None:
                raise ValueError("without a cfg, GeneralizedRCNNWithTTA needs a tta_mapper")
            aug = cfg.TEST.AUG
            tta_mapper = DatasetMapperTTA(aug.MIN_SIZES, aug.MAX_SIZE, aug.FLIP)
        self.model = model
        self.tta_mapper = tta_mapper
        self.batch_size = batch_size

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Instances]]:
        """Detect, see ``GeneralizedRCNN.forward``.

        Args:
            batched_inputs: for each image "image", or "file_name" to read it from; "height" and
                "width" default to the size of the image.
        """
        return [{"instances": self._detect(self._complete(x))} for x in batched_inputs]

    def _complete(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The input of one image with "image", "height" and "width"."""
        inputs = dict(inputs)
        if "image" not in inputs:
            image = read_image(inputs["file_name"], self.model.input_format)
            # (H, W, C) -> (C, H, W)
            inputs["image"] = torch.from_numpy(np.array(image.transpose(2, 0, 1)))
        for key, size in zip(("height", "width"), inputs["image"].shape[1:], strict=True):
            inputs.setdefault(key, size)
        return inputs

    def _detect(self, inputs: Mapping[str, Any]) -> Instances:
        """Detections in one image, in the pixels of its original size."""
        size = inputs["height"], inputs["width"]
        versions = self.tta_mapper(inputs)
        transforms = [version.pop("transforms") for version in versions]
        with self._without_masks():
            found = self._inference(versions)
        boxes = [
            _transform_boxes(x.pred_boxes, t.inverse())
            for x, t in zip(found, transforms, strict=True)
        ]
        merged = self._merge(
            torch.cat(boxes),
            torch.cat([x.scores for x in found]),
            torch.cat([x.pred_classes for x in found]),
            size,
        )
        if not self.model.roi_heads.mask_on:
            return merged

        placed = [
            Instances(
                tuple(version["image"].shape[1:]),
                pred_boxes=Boxes(_transform_boxes(merged.pred_boxes, t)),
                pred_classes=merged.pred_classes,
                scores=merged.scores,
            )
            for version, t in zip(versions, transforms, strict=True)
        ]
        masks = [
            x.pred_masks.flip(dims=[3]) if _mirrors(t) else x.pred_masks
            for x, t in zip(self._inference(versions, placed), transforms, strict=True)
        ]
        merged.pred_masks = torch.stack(masks).mean(dim=0)  # (V, N, 1, M, M) -> (N, 1, M, M)
        return detector_postprocess(merged, *size)

    @contextmanager
    def _without_masks(self) -> Iterator[None]:
        heads = self.model.roi_heads
        mask_on, heads.mask_on = heads.mask_on, False
        try:
            yield
        finally:
            heads.mask_on = mask_on

    def _inference(
        self, inputs: list[dict[str, Any]], detected: list[Instances] | None = None
    ) -> list[Instances]:
        """``model.inference`` in batches, in the pixels of the inputs."""
        results = []
        for i in range(0, len(inputs), self.batch_size):
            part = slice(i, i + self.batch_size)
            results += self.model.inference(
                inputs[part], None if detected is None else detected[part], do_postprocess=False
            )
        return results

    def _merge(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, size: tuple[int, int]
    ) -> Instances:
        """NMS over the detections of all versions: boxes (R, 4), scores (R,), classes (R,)."""
        heads = self.model.roi_heads
        predictor = heads.box_predictor
        if isinstance(predictor, nn.ModuleList):  # the stages of a cascade
            predictor = predictor[-1]
        one_hot = scores.new_zeros(len(boxes), heads.num_classes + 1)
        one_hot[torch.arange(len(boxes), device=boxes.device), classes] = scores
        merged, _ = fast_rcnn_inference_single_image(
            boxes, one_hot, size, 1e-8, predictor.test_nms_thresh, predictor.test_topk_per_image
        )
        return merged


def _transform_boxes(boxes: Boxes, transforms: TransformList) -> Tensor:
    """(N, 4) float32 on the device of ``boxes``."""
    moved = transforms.apply_box(boxes.tensor.cpu().numpy())
    return torch.as_tensor(moved, dtype=torch.float32, device=boxes.device)


def _mirrors(transforms: TransformList) -> bool:
    return any(isinstance(t, HFlipTransform) for t in transforms.transforms)
