"""The two-stage detector."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.layers import move_device_like
from detectron2.structures import ImageList, Instances
from torch import nn

from ..backbone import Backbone
from ..postprocessing import detector_postprocess

__all__ = ["GeneralizedRCNN"]


class GeneralizedRCNN(nn.Module):
    """Backbone, proposals, then heads on the regions.

    Args:
        backbone, proposal_generator, roi_heads: the three parts.
        pixel_mean, pixel_std: per channel, in the order of ``input_format``, on the scale of the
            input (0 to 255).
        input_format: order of the channels of the input, for those who make or draw it.
        vis_period: 0. (Detectron2 can log drawings of proposals.)
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module,
        roi_heads: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str | None = None,
        vis_period: int = 0,
    ):
        super().__init__()
        if proposal_generator is None or vis_period > 0:
            option = "precomputed proposals" if proposal_generator is None else f"{vis_period=}"
            raise NotImplementedError(
                f"GeneralizedRCNN: {option} is not in detectron2_lite; install Detectron2"
            )
        if len(pixel_mean) != len(pixel_std):
            raise ValueError(f"pixel_mean={list(pixel_mean)} but pixel_std={list(pixel_std)}")
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.input_format = input_format
        self.vis_period = vis_period
        for name, value in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            value = torch.tensor(list(value), dtype=torch.float32)[:, None, None]  # (C, 1, 1)
            self.register_buffer(name, value, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> Any:
        """Losses in training, detections otherwise.

        Args:
            batched_inputs: for each image a dict with
                "image": (C, H, W), 0 to 255, any dtype;
                "instances": in training, Instances with ``gt_boxes``, ``gt_classes``, and
                ``gt_masks`` if there is a mask head;
                "height", "width": size of the detections wanted, default H and W.

        Returns:
            in training a dict of losses; else for each image {"instances": Instances} with
            ``pred_boxes``, ``scores``, ``pred_classes`` and maybe ``pred_masks``, by falling score.

        Raises:
            ValueError: if an image is larger than the ``square_pad`` of the backbone, which
                Detectron2 crops when it is alone in its batch.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        if "instances" not in batched_inputs[0]:
            raise ValueError("GeneralizedRCNN in training needs 'instances' in its inputs")
        gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
        features = self.backbone(images.tensor)
        proposals, proposal_losses = self.proposal_generator(images, features, gt_instances)
        _, detector_losses = self.roi_heads(images, features, proposals, gt_instances)
        return {**detector_losses, **proposal_losses}

    def inference(
        self,
        batched_inputs: Sequence[Mapping[str, Any]],
        detected_instances: Sequence[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Instances]] | list[Instances]:
        """Detect.

        Args:
            batched_inputs: see ``forward``.
            detected_instances: for each image Instances with ``pred_boxes`` and
                ``pred_classes`` in the pixels of the input, to which only masks are added.
            do_postprocess: False to get the Instances as they are, in the pixels of the input and
                with masks (R, 1, M, M) of probabilities.
        """
        if self.training:
            raise ValueError("inference of a model in training mode; call model.eval() first")
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is None:
            proposals, _ = self.proposal_generator(images, features, None)
            results, _ = self.roi_heads(images, features, proposals, None)
        else:
            detected_instances = [x.to(self.device) for x in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, detected_instances)
        if not do_postprocess:
            return results
        return self._postprocess(results, batched_inputs, images.image_sizes)

    def preprocess_image(self, batched_inputs: Sequence[Mapping[str, Any]]) -> ImageList:
        """Normalise, then pad with 0, which is the mean colour. ValueError: see ``forward``."""
        images = [
            (move_device_like(x["image"], self.pixel_mean) - self.pixel_mean) / self.pixel_std
            for x in batched_inputs
        ]
        return ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    @staticmethod
    def _postprocess(
        instances: Sequence[Instances],
        batched_inputs: Sequence[Mapping[str, Any]],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[dict[str, Instances]]:
        results = []
        for found, inputs, (height, width) in zip(
            instances, batched_inputs, image_sizes, strict=True
        ):
            height, width = inputs.get("height", height), inputs.get("width", width)
            results.append({"instances": detector_postprocess(found, height, width)})
        return results
