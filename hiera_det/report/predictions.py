"""Pictures of instances, and of predictions beside the ground truth."""

import colorsys
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import Instances
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from hiera_det.data.images import read_image

__all__ = ["class_colors", "class_labels", "draw_instances", "draw_predictions"]

Color = tuple[int, int, int]  # RGB, 0 to 255

BACKGROUND, INK = (255, 255, 255), (30, 30, 30)
GAP, CAPTION = 12, 30  # px
MASK_OPACITY, LABEL_OPACITY = 0.5, 0.7
GOLDEN_RATIO = 0.618034


def class_colors(metadata: Metadata, num_classes: int) -> list[Color]:
    """A colour for each class: the `thing_colors` of a dataset, or else hues far apart.

    Args:
        metadata: of a registered dataset.
        num_classes: how many colours.
    """
    known = metadata.get("thing_colors") or []
    colors = [(int(red), int(green), int(blue)) for red, green, blue in known[:num_classes]]
    for k in range(len(colors), num_classes):
        # Steps of the golden ratio around the circle keep all hues apart, however many there are.
        rgb = colorsys.hsv_to_rgb(k * GOLDEN_RATIO % 1, (0.9, 0.6)[k % 2], (0.95, 0.8)[k // 2 % 2])
        red, green, blue = (round(255 * value) for value in rgb)
        colors.append((red, green, blue))
    return colors


def class_labels(classes: Sequence[int], names: Sequence[str]) -> list[str]:
    """A text for each instance: its class, or nothing where all are of the same.

    Hundreds of labels that say the same would hide the objects.

    Args:
        classes: numbers of classes.
        names: of all classes; numbers beyond them are named by themselves.
    """
    if len(names) == 1:
        return [""] * len(classes)
    return [names[k] if k < len(names) else f"class {k}" for k in classes]


def draw_instances(
    image: np.ndarray,
    boxes: Tensor | np.ndarray | Sequence[Sequence[float]],
    labels: Sequence[str],
    colors: Sequence[Color],
    masks: Tensor | np.ndarray | None = None,
    scores: Sequence[float] | None = None,
    outlined: Sequence[bool] | None = None,
) -> np.ndarray:
    """Draws N instances on a copy of an image, the large ones below.

    Args:
        image: uint8 (H, W, 3), RGB.
        boxes: (N, 4), x0, y0, x1, y1 in px.
        labels: N texts, as of `class_labels`; where one is empty nothing is written.
        colors: N colours.
        masks: bool (N, H, W); None draws boxes alone.
        scores: N numbers in 0..1, written behind the labels in percent.
        outlined: N flags, of those whose mask is not to be filled, as crowds.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ValueError: the numbers of boxes, labels, colours, masks and scores differ, or the masks are
            not of the image's size.
    """
    height, width = image.shape[:2]
    boxes = torch.as_tensor(np.asarray(boxes), dtype=torch.float32).reshape(-1, 4)  # (N, 4)
    count = len(boxes)
    given = {"labels": labels, "colors": colors, "masks": masks, "scores": scores}
    given["outlined"] = outlined
    wrong = {name: len(v) for name, v in given.items() if v is not None and len(v) != count}
    if wrong:
        raise ValueError(f"{count} boxes, but {wrong}; give one of each for every instance")
    if masks is not None and tuple(masks.shape[1:]) != (height, width):
        raise ValueError(
            f"masks of (height, width) {tuple(masks.shape[1:])} on an image of {(height, width)}"
        )
    if count == 0:
        return image.copy()
    line_width = max(1, round((height * width) ** 0.5 / 500))
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    order = areas.argsort(descending=True, stable=True).tolist()
    picture = torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1)  # (3, H, W), a copy
    if masks is not None:
        for k in order:
            is_filled = outlined is None or not outlined[k]
            _draw_mask(picture, torch.as_tensor(masks[k]).bool(), colors[k], line_width, is_filled)
    picture = draw_bounding_boxes(
        picture, _drawable(boxes[order]), colors=[colors[k] for k in order], width=line_width
    )
    drawn = Image.fromarray(picture.permute(1, 2, 0).numpy())  # (3, H, W) -> (H, W, 3)
    for k in order:  # last, so that nothing hides a text
        if labels[k]:
            text = labels[k] if scores is None else f"{labels[k]} {float(scores[k]):.0%}"
            _draw_label(drawn, text, boxes[k, :2].tolist(), colors[k])
    return np.array(drawn)


def _draw_mask(
    picture: Tensor, mask: Tensor, color: Color, line_width: int, is_filled: bool
) -> None:
    """A mask bool (H, W) on a picture uint8 (3, H, W), in place: filled with a darker edge."""
    rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
    if len(rows) == 0:
        return
    # Hundreds of small masks on a large image: only the part of the picture around each.
    y, x = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    mask, part = mask[y, x], picture[:, y, x]
    border = line_width if is_filled else 2 * line_width
    outside = F.pad(1.0 - mask[None].float(), (border,) * 4, value=1.0)
    edge = mask & (F.max_pool2d(outside, 2 * border + 1, stride=1)[0] > 0)
    edge_color = tuple(int(0.7 * value) for value in color) if is_filled else color
    if is_filled:
        part = draw_segmentation_masks(part, mask, alpha=MASK_OPACITY, colors=[color])
    picture[:, y, x] = draw_segmentation_masks(part, edge, alpha=1.0, colors=[edge_color])


def _drawable(boxes: Tensor) -> Tensor:
    """Boxes (N, 4) whose right and lower sides are not left of or above the others."""
    return torch.cat([boxes[:, :2], torch.maximum(boxes[:, :2], boxes[:, 2:])], dim=1)


def _draw_label(drawn: Image.Image, text: str, corner: Sequence[float], color: Color) -> None:
    """Writes on a dark ground whose upper left is `corner`, or as near to it as has room."""
    size = max(10.0, (drawn.width * drawn.height) ** 0.5 / 50)
    font = ImageFont.load_default(size=size)
    left, top, right, bottom = font.getbbox(text)
    width, height = right - left + 4, bottom - top + 4
    x = max(0, min(round(corner[0]), drawn.width - round(width)))
    y = max(0, min(round(corner[1]), drawn.height - round(height)))
    light = tuple(round(102 + 0.6 * value) for value in color)  # readable whatever the colour
    canvas = ImageDraw.Draw(drawn, "RGBA")
    canvas.rectangle((x, y, x + width, y + height), fill=(0, 0, 0, round(255 * LABEL_OPACITY)))
    canvas.text((x + 2 - left, y + 2 - top), text, fill=light, font=font)


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
    intensity_range: Sequence[float] | None = None,
    page: int | None = None,
) -> Path:
    """Draws a grid of image pairs, the ground truth on the left and the prediction on the right.

    Args:
        dataset_name: registered name, for the names and colours of the classes.
        dataset_dicts: Detectron2's dataset dicts, as `DatasetCatalog.get` gives them.
        predictions: one per dict, in the same order: what the model returns,
            `{"instances": ...}`, or the Instances themselves; on any device, in the size of the
            image file; with or without `pred_masks`.
        png_path: the picture; its folder is created if missing.
        score_threshold: predictions of a lower score are not drawn.
        max_images: how many images are drawn, from the first.
        num_columns: pairs beside each other.
        side: px of the longer side of an image in the grid.
        intensity_range, page: see `hiera_det.data.images.open_image`.

    Returns:
        `png_path`.

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
        image = read_image(record["file_name"], "RGB", intensity_range, page)  # uint8 (H, W, 3)
        instances = prediction["instances"] if isinstance(prediction, dict) else prediction
        if tuple(instances.image_size) != image.shape[:2]:
            raise ValueError(
                f"{record['file_name']} is of (height, width) {image.shape[:2]}, its prediction of "
                f"{tuple(instances.image_size)}; postprocess predictions to the size of the file"
            )
        true = _draw_truth(image, record.get("annotations") or [], metadata, side)
        predicted = _draw_prediction(image, instances, score_threshold, metadata, side)
        left = _panel(true, f"{Path(record['file_name']).name}: ground truth", side)
        right = _panel(predicted, f"prediction, score >= {score_threshold:g}", side)
        pairs.append(np.hstack([left, right]))
    num_columns = min(num_columns, len(pairs))
    pairs += [pairs[0][:0]] * (-len(pairs) % num_columns)  # as wide, and empty
    rows = [_row(pairs[k : k + num_columns]) for k in range(0, len(pairs), num_columns)]
    png_path = Path(png_path)
    png_path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack(rows)).save(png_path, format="png")
    return png_path


def _draw_truth(
    image: np.ndarray, annotations: list[dict], metadata: Metadata, side: int
) -> np.ndarray:
    """The annotations of a dataset dict; crowds are outlined, and labelled as such."""
    if not all(annotation.get("segmentation") for annotation in annotations):
        annotations = [{k: v for k, v in a.items() if k != "segmentation"} for a in annotations]
    truth = annotations_to_instances(annotations, image.shape[:2], mask_format="bitmask")
    crowds = [annotation.get("iscrowd", 0) == 1 for annotation in annotations]
    return _draw_scaled(
        image,
        truth.gt_boxes.tensor,
        truth.gt_classes,
        truth.gt_masks.tensor if truth.has("gt_masks") else None,
        metadata,
        side,
        crowds=crowds,
    )


def _draw_prediction(
    image: np.ndarray,
    instances: Instances,
    score_threshold: float,
    metadata: Metadata,
    side: int,
) -> np.ndarray:
    shown = instances[instances.scores >= score_threshold].to("cpu")
    return _draw_scaled(
        image,
        shown.pred_boxes.tensor,
        shown.pred_classes,
        shown.pred_masks if shown.has("pred_masks") else None,
        metadata,
        side,
        scores=shown.scores.tolist(),
    )


def _draw_scaled(
    image: np.ndarray,
    boxes: Tensor,
    classes: Tensor,
    masks: Tensor | None,
    metadata: Metadata,
    side: int,
    *,
    scores: Sequence[float] | None = None,
    crowds: Sequence[bool] | None = None,
) -> np.ndarray:
    """`draw_instances` on the image resized to a longer side of `side` px, classes by name."""
    scale = side / max(image.shape[:2])
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    resized = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    if masks is not None and len(masks):
        # (N, H, W) -> (N, 1, H, W) -> (N, height, width)
        soft = F.interpolate(masks[:, None].float(), (height, width), mode="bilinear")[:, 0]
        masks = soft >= 0.5
    names = metadata.get("thing_classes") or []
    numbers = classes.tolist()
    labels = class_labels(numbers, names)
    if crowds is not None:
        labels = [
            f"{n} (crowd)".strip() if crowd else n for n, crowd in zip(labels, crowds, strict=True)
        ]
    palette = class_colors(metadata, max([*numbers, 0]) + 1)
    colors = [palette[k] for k in numbers]
    return draw_instances(
        resized,
        boxes * scale,
        labels,
        colors,
        None if masks is None or not len(masks) else masks,
        scores,
        crowds,
    )


def _panel(image: np.ndarray, caption: str, side: int) -> np.ndarray:
    """An image below its caption: uint8 RGB, (CAPTION + its height + GAP, side + GAP, 3)."""
    height, width = image.shape[:2]
    panel = Image.new("RGB", (side + GAP, CAPTION + height + GAP), BACKGROUND)
    panel.paste(Image.fromarray(image), ((side + GAP - width) // 2, CAPTION))
    font = ImageFont.load_default(size=15)
    ImageDraw.Draw(panel).text((GAP // 2, CAPTION - 7), caption, INK, font=font, anchor="ls")
    return np.array(panel)


def _row(pairs: list[np.ndarray]) -> np.ndarray:
    """Pairs beside each other, padded below to the height of the highest."""
    height = max(len(pair) for pair in pairs)
    below = [((0, height - len(pair)), (0, 0), (0, 0)) for pair in pairs]
    return np.hstack(
        [np.pad(p, pad, constant_values=255) for p, pad in zip(pairs, below, strict=True)]
    )
