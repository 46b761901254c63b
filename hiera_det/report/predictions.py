"""Pictures of predictions beside the ground truth."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import Instances
from detectron2.utils.visualizer import ColorMode, Visualizer

__all__ = ["draw_predictions"]

BACKGROUND, INK = 255, (30, 30, 30)
GAP, CAPTION = 12, 30  # px


def draw_predictions(
    dataset_name: str,
    dataset_dicts: Sequence[dict],
    predictions: Sequence[Instances | dict],
    png_path: str | os.PathLike,
    *,
    score_threshold: float = 0.5,
    max_images: int = 8,
    num_columns: int = 2,
    side: int = 480,
) -> Path:
    """Draws a grid of image pairs, the ground truth on the left and the prediction on the right.

    Args:
        dataset_name: registered name, for the names and colours of the classes.
        dataset_dicts: Detectron2's dataset dicts, as ``DatasetCatalog.get`` gives them.
        predictions: one per dict, in the same order: what the model returns,
            ``{"instances": ...}``, or the Instances themselves; on any device, in the size of the
            image file.
        png_path: the picture; its folder is created if missing.
        score_threshold: predictions of a lower score are not drawn.
        max_images: how many images are drawn, from the first.
        num_columns: pairs beside each other.
        side: px of the longer side of an image in the grid.

    Returns:
        ``png_path``.

    Raises:
        ValueError: there is nothing to draw, dicts and predictions differ in number, or a
            prediction is of another size than its image.
    """
    if not dataset_dicts or len(dataset_dicts) != len(predictions):
        raise ValueError(
            f"{len(predictions)} predictions for {len(dataset_dicts)} images: give one for each, "
            "and one image at least"
        )
    metadata = MetadataCatalog.get(dataset_name)
    pairs = []
    for record, prediction in list(zip(dataset_dicts, predictions, strict=True))[:max_images]:
        image = read_image(record["file_name"], format="RGB")  # uint8 (H, W, 3)
        instances = prediction["instances"] if isinstance(prediction, dict) else prediction
        if tuple(instances.image_size) != image.shape[:2]:
            raise ValueError(
                f"{record['file_name']} is of (height, width) {image.shape[:2]}, its prediction of "
                f"{tuple(instances.image_size)}; postprocess predictions to the size of the file"
            )
        instances = instances[instances.scores >= score_threshold].to("cpu")
        scale = side / max(image.shape[:2])
        # Colours by class, so that both sides of a pair have the same ones.
        mode = ColorMode.SEGMENTATION if "thing_colors" in metadata.as_dict() else ColorMode.IMAGE
        true, predicted = (
            Visualizer(image, metadata, scale=scale, instance_mode=mode) for _ in range(2)
        )
        drawn_true = true.draw_dataset_dict(copy.deepcopy(record)).get_image()
        drawn = predicted.draw_instance_predictions(instances).get_image()
        left = _panel(drawn_true, f"{Path(record['file_name']).name}: ground truth", side)
        right = _panel(drawn, f"prediction, score >= {score_threshold:g}", side)
        pairs.append(np.hstack([left, right]))
    num_columns = min(num_columns, len(pairs))
    pairs += [pairs[0][:0]] * (-len(pairs) % num_columns)  # as wide, and empty
    rows = [_row(pairs[k : k + num_columns]) for k in range(0, len(pairs), num_columns)]
    png_path = Path(png_path)
    png_path.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode(".png", np.vstack(rows)[..., ::-1])  # OpenCV's order is BGR
    png_path.write_bytes(encoded.tobytes())
    return png_path


def _panel(image: np.ndarray, caption: str, side: int) -> np.ndarray:
    """An image below its caption: uint8 RGB, (CAPTION + its height + GAP, side + GAP, 3)."""
    height, width = (min(length, side) for length in image.shape[:2])
    panel = np.full((CAPTION + height + GAP, side + GAP, 3), BACKGROUND, np.uint8)
    left = (side + GAP - width) // 2
    panel[CAPTION : CAPTION + height, left : left + width] = image[:height, :width]
    origin = (GAP // 2, CAPTION - 9)
    cv2.putText(panel, caption, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.55, INK, 1, cv2.LINE_AA)
    return panel


def _row(pairs: list[np.ndarray]) -> np.ndarray:
    """Pairs beside each other, padded below to the height of the highest."""
    height = max(len(pair) for pair in pairs)
    below = [((0, height - len(pair)), (0, 0), (0, 0)) for pair in pairs]
    return np.hstack(
        [np.pad(p, pad, constant_values=BACKGROUND) for p, pad in zip(pairs, below, strict=True)]
    )
