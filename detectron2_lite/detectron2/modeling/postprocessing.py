"""From network output to results on the original image."""

from detectron2.structures import Instances, ROIMasks

__all__ = ["detector_postprocess"]


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Scale results to another image size.

    Args:
        results: of one image, with ``pred_boxes`` or ``proposal_boxes`` in the pixels of
            ``results.image_size``, and maybe ``pred_masks`` (N, 1, M, M), probabilities.
        output_height, output_width: size in pixels of the image that the user knows.
        mask_threshold: of ``paste_masks_in_image``.

    Returns:
        New Instances with boxes scaled and clipped, without those that are empty then, and with
        ``pred_masks`` as bool (N, output_height, output_width).
    """
    height, width = results.image_size
    scaled = Instances((output_height, output_width), **results.get_fields())
    name = "pred_boxes" if scaled.has("pred_boxes") else "proposal_boxes"
    boxes = scaled.get(name).clone()
    boxes.scale(output_width / width, output_height / height)
    boxes.clip(scaled.image_size)
    scaled.set(name, boxes)
    scaled = scaled[boxes.nonempty()]
    if scaled.has("pred_masks"):
        masks = ROIMasks(scaled.pred_masks[:, 0])  # (N, 1, M, M) -> (N, M, M)
        scaled.pred_masks = masks.to_bitmasks(
            scaled.get(name), output_height, output_width, mask_threshold
        ).tensor
    return scaled
