"""What the graph of a detector leaves to its caller: resizing before, boxes and masks after.

NumPy and Pillow alone: copy this file to a device.
"""

import numpy as np
from PIL import Image

__all__ = ["detections", "network_input", "paste_mask"]


def network_input(image: np.ndarray, facts: dict) -> tuple[np.ndarray, np.ndarray]:
    """`image` uint8 (side, side, C) and `size` int64 (2,) of the graph, of an image as Detectron2
    resizes it.

    Args:
        image: uint8 (H, W, 3), RGB.
        facts: of the file: "image_size", "short_edge", "max_size" and "input_format".
    """
    short = min(image.shape[:2])
    exact = [
        n * (facts["short_edge"] / short) if n > short else facts["short_edge"]
        for n in image.shape[:2]
    ]
    shrink = min(1.0, facts["max_size"] / max(exact))
    size = int(exact[0] * shrink + 0.5), int(exact[1] * shrink + 0.5)
    pixels = Image.fromarray(image)
    if facts["input_format"] == "L":
        pixels = pixels.convert("L")
    resized = np.asarray(pixels.resize(size[::-1], Image.Resampling.BILINEAR))
    resized = resized.reshape(*size, -1)  # (h, w, 3) or (h, w, 1)
    if facts["input_format"] == "BGR":
        resized = resized[:, :, ::-1]
    side = facts["image_size"]
    padded = np.zeros((side, side, resized.shape[2]), np.uint8)
    padded[: size[0], : size[1]] = resized
    return padded, np.array(size, np.int64)


def detections(outputs: dict, size: np.ndarray, height: int, width: int) -> dict:
    """Detections in an image of height x width px.

    Args:
        outputs: of the graph by name: boxes (D, 4), scores (D,), classes (D,), masks (D, M, M).
        size: (2,), height and width that the image had in the graph.

    Returns:
        By falling score "boxes" float32 (N, 4), "scores", "classes" and, with masks in `outputs`,
        "masks" bool (N, height, width).
    """
    limit = np.array([width, height, width, height], np.float32)
    scale = limit / np.tile(size[::-1], 2).astype(np.float32)
    boxes = np.clip(outputs["boxes"] * scale, 0, limit)
    keep = (outputs["scores"] > 0) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    found = {"boxes": boxes[keep]} | {k: outputs[k][keep] for k in ("scores", "classes")}
    if "masks" in outputs:
        found["masks"] = np.zeros((keep.sum(), height, width), bool)
        for k, mask in enumerate(outputs["masks"][keep]):
            paste_mask(found["masks"][k], mask, found["boxes"][k])
    return found


def paste_mask(canvas: np.ndarray, mask: np.ndarray, box: np.ndarray) -> None:
    """Probabilities (M, M) that span a box, bilinear at the centres of the pixels, into a canvas
    bool (H, W), in place: True from 0.5."""
    weights, part = [], []
    for low, high, length in ((box[1], box[3], len(canvas)), (box[0], box[2], canvas.shape[1])):
        start, stop = max(int(np.floor(low)) - 1, 0), min(int(np.ceil(high)) + 1, length)
        centres = (np.arange(start, stop) + 0.5 - low) / (high - low) * len(mask) - 0.5
        distance = np.abs(centres[:, None] - np.arange(len(mask)))  # (pixels, M)
        weights.append(np.maximum(0.0, 1.0 - distance).astype(np.float32))
        part.append(slice(start, stop))
    canvas[tuple(part)] = weights[0] @ mask @ weights[1].T >= 0.5
