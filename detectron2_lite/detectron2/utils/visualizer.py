"""Draw predictions and ground truth on an image, with numpy and Pillow.

Colours are RGB in 0..1. The same input always gives the same picture.
"""

import enum
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2 import absent_message
from detectron2.data.catalog import Metadata
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Instances,
    PolygonMasks,
    polygons_to_bitmask,
)
from detectron2.utils.colormap import colormap
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageColor, ImageDraw, ImageFont

__all__ = ["ColorMode", "VisImage", "Visualizer"]

Color = Sequence[float] | str
# a bool mask (H, W), polygons of flat (x, y, ...) coordinates, or an RLE dict
Mask = np.ndarray | list | dict

_MATPLOTLIB_LETTERS = {"b": "blue", "g": "green", "k": "black", "r": "red", "w": "white"}


@enum.unique
class ColorMode(enum.Enum):
    """How instances get their colours."""

    IMAGE = 0  # every instance another one
    SEGMENTATION = 1  # by class
    IMAGE_BW = 2  # as IMAGE, on an image that is grey outside of the masks


class VisImage:
    """The picture being drawn.

    Args:
        img: RGB (H, W, 3) in 0..255.
        scale: the picture is that many times as large as the image.
    """

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        self.scale = scale
        self.height, self.width = (max(1, round(side * scale)) for side in img.shape[:2])
        self.reset_image(img)

    def reset_image(self, img: np.ndarray) -> None:
        """Put another image of the same size in place of everything drawn."""
        pil = Image.fromarray(np.ascontiguousarray(img, dtype=np.uint8))
        if pil.size != (self.width, self.height):
            pil = pil.resize((self.width, self.height), Image.BILINEAR)
        self.canvas = np.array(pil)

    def get_image(self) -> np.ndarray:
        """uint8 RGB (H * scale, W * scale, 3)."""
        return self.canvas.copy()

    def save(self, filepath: str) -> None:
        """Write the picture; the suffix says in which format.

        Raises:
            ValueError: Pillow knows no format of that suffix.
        """
        suffix = "." + str(filepath).rpartition(".")[2].lower()
        formats = Image.registered_extensions()
        if suffix not in formats:
            raise ValueError(f"{filepath}: {suffix!r} is no image format; use .png or .jpg")
        with PathManager.open(str(filepath), "wb") as f:
            Image.fromarray(self.canvas).save(f, format=formats[suffix])


class Visualizer:
    """Draws on one image. The ``draw_*`` methods return the ``VisImage``, as ``get_output`` does.

    Args:
        img_rgb: (H, W, 3) in 0..255.
        metadata: of the dataset; ``thing_classes`` gives the names, ``thing_colors`` (RGB in
            0..255) the colours of ``ColorMode.SEGMENTATION``.
        scale: of the picture to the image. All coordinates are those of the image.
        instance_mode: how instances get their colours.
        font_size_scale: of the text.
    """

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Metadata | None = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ) -> None:
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        if self.img.ndim != 3 or self.img.shape[2] != 3:
            raise ValueError(f"Visualizer draws on RGB (H, W, 3), got shape {self.img.shape}")
        self.metadata = Metadata() if metadata is None else metadata
        self.output = VisImage(self.img, scale)
        self._instance_mode = instance_mode
        side = np.sqrt(self.output.height * self.output.width)
        self._default_font_size = max(side / 60, 9.0) * font_size_scale
        self._line_width = max(1, round(side / 500))
        self._jitter = np.random.RandomState(0)

    def get_output(self) -> VisImage:
        return self.output

    def draw_instance_predictions(self, predictions: Instances, jittering: bool = True) -> VisImage:
        """Draw boxes, masks and "name score%" labels, as far as the predictions have them.

        Args:
            predictions: on the CPU, in coordinates of the image: any of ``pred_boxes``,
                ``scores``, ``pred_classes``, ``pred_masks`` (bool (N, H, W)).
            jittering: in ``ColorMode.SEGMENTATION``, vary the colour within a class, so that
                instances that touch can be told apart.
        """
        fields = predictions.get_fields()
        classes = fields["pred_classes"].tolist() if "pred_classes" in fields else None
        scores = fields["scores"].tolist() if "scores" in fields else None
        masks = self._as_masks(fields.get("pred_masks"))
        if self._instance_mode is ColorMode.IMAGE_BW:
            self.output.reset_image(self._grey_outside(masks or []))
        by_class = self._instance_mode is ColorMode.SEGMENTATION and classes is not None
        return self.overlay_instances(
            boxes=fields.get("pred_boxes"),
            labels=self._labels(classes, scores),
            masks=masks,
            assigned_colors=self._class_colors(classes, jittering) if by_class else None,
            alpha=0.8 if by_class else 0.5,
        )

    def draw_dataset_dict(self, dic: dict) -> VisImage:
        """Draw the ``annotations`` of a dict of the dataset; crowds are labelled as such."""
        annos = dic.get("annotations") or []
        classes = [a["category_id"] for a in annos]
        by_class = self._instance_mode is ColorMode.SEGMENTATION
        have_masks = bool(annos) and all("segmentation" in a for a in annos)
        return self.overlay_instances(
            boxes=[BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annos],
            labels=self._labels(classes, None, [a.get("iscrowd", 0) for a in annos]),
            masks=[a["segmentation"] for a in annos] if have_masks else None,
            assigned_colors=self._class_colors(classes, True) if by_class else None,
        )

    def overlay_instances(
        self,
        *,
        boxes: Boxes | torch.Tensor | np.ndarray | Sequence | None = None,
        labels: Sequence[str] | None = None,
        masks: BitMasks | PolygonMasks | torch.Tensor | Sequence[Mask] | None = None,
        keypoints: None = None,
        assigned_colors: Sequence[Color] | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draw N instances, large ones first.

        Args:
            boxes: (N, 4), XYXY in pixels of the image.
            labels: N texts, put at the boxes, or at the masks where there are no boxes.
            masks: bool (N, H, W), or N masks, lists of polygons, or RLE dicts.
            assigned_colors: N colours; by default all different.
            alpha: opacity of the masks.

        Raises:
            ValueError: these do not have the same length.
        """
        if keypoints is not None:
            raise NotImplementedError(absent_message("Visualizer with keypoints"))
        masks = self._as_masks(masks)
        boxes = _as_boxes(boxes)
        given = {"boxes": boxes, "labels": labels, "masks": masks, "colors": assigned_colors}
        lengths = {name: len(value) for name, value in given.items() if value is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"instances differ in number: {lengths}")
        count = next(iter(lengths.values()), 0)
        palette = colormap(rgb=True, maximum=1)
        colors = assigned_colors or [palette[i % len(palette)] for i in range(count)]

        if boxes is None and masks is not None:
            corners = np.stack([_hull(m) for m in masks]) if masks else np.zeros((0, 4))
        else:
            corners = boxes
        order = range(count)
        if corners is not None:
            areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
            order = np.argsort(-areas, kind="stable").tolist()
        for i in order:
            if masks is not None:
                self.draw_binary_mask(masks[i], colors[i], alpha=alpha)
            if boxes is not None:
                self.draw_box(boxes[i], alpha=1.0, edge_color=colors[i])
        for i in order:  # last, so that no mask hides a text
            if labels is not None and corners is not None:
                self.draw_text(labels[i], corners[i, :2], color=colors[i])
        return self.output

    def draw_box(
        self, box_coord: Sequence[float], alpha: float = 0.5, edge_color: Color = "g"
    ) -> VisImage:
        """Draw the outline of a box, XYXY in pixels of the image."""
        x0, y0, x1, y1 = (int(round(float(v) * self.output.scale)) for v in box_coord)
        width = self._line_width
        x1, y1 = max(x1, x0 + width), max(y1, y0 + width)
        color = _rgb(edge_color)
        for top, bottom, left, right in (
            (y0, y0 + width, x0, x1),
            (y1 - width, y1, x0, x1),
            (y0 + width, y1 - width, x0, x0 + width),
            (y0 + width, y1 - width, x1 - width, x1),
        ):
            region = self.output.canvas[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
            _blend(region, color, alpha)
        return self.output

    def draw_binary_mask(
        self,
        binary_mask: np.ndarray,
        color: Color = "g",
        *,
        edge_color: Color | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Fill a mask, bool (H, W), and draw its outline."""
        mask = np.asarray(binary_mask).astype(bool)
        if mask.shape != self.img.shape[:2]:
            raise ValueError(f"a mask of {mask.shape} on an image of {self.img.shape[:2]}")
        size = (self.output.width, self.output.height)
        if size != mask.shape[::-1]:
            soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.BILINEAR)
            mask = np.asarray(soft) > 127
        x0, y0, x1, y1 = _hull(mask).astype(int)
        mask, region = mask[y0:y1, x0:x1], self.output.canvas[y0:y1, x0:x1]
        inside = mask
        for _ in range(self._line_width):
            inside = _eroded(inside)
        fill = _rgb(color)
        edge = fill * 0.7 if edge_color is None else _rgb(edge_color)
        region[inside] = _mixed(region[inside], fill, alpha)
        region[mask & ~inside] = _mixed(region[mask & ~inside], edge, 1.0)
        return self.output

    def draw_polygon(
        self,
        segment: np.ndarray,
        color: Color,
        edge_color: Color | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Fill a polygon, (P, 2) points (x, y) in pixels of the image, and draw its outline."""
        polygon = np.asarray(segment, dtype=np.float64).reshape(-1)  # (P, 2) -> (2P,)
        mask = polygons_to_bitmask([polygon], *self.img.shape[:2])
        return self.draw_binary_mask(mask, color, edge_color=edge_color, alpha=alpha)

    def draw_text(
        self,
        text: str,
        position: Sequence[float],
        *,
        font_size: float | None = None,
        color: Color = "g",
    ) -> VisImage:
        """Write on a dark ground, its upper left corner at ``position``, (x, y) in the image.

        Text that would leave the picture is moved inside.
        """
        font = _font(round(font_size or self._default_font_size))
        left, top, right, bottom = font.getbbox(text)
        width, height = int(right - left) + 4, int(bottom - top) + 4
        canvas = self.output.canvas
        x, y = (int(round(float(v) * self.output.scale)) for v in position)
        x = max(0, min(x, canvas.shape[1] - width))
        y = max(0, min(y, canvas.shape[0] - height))
        region = canvas[y : y + height, x : x + width]
        _blend(region, np.zeros(3), 0.7)
        patch = Image.fromarray(region)
        light = 0.4 + 0.6 * _rgb(color) / 255  # readable on black whatever the colour
        fill = tuple(int(v) for v in light * 255)
        ImageDraw.Draw(patch).text((2 - left, 2 - top), text, fill=fill, font=font)
        region[:] = np.asarray(patch)
        return self.output

    def _labels(
        self,
        classes: list[int] | None,
        scores: list[float] | None,
        crowds: list[int] | None = None,
    ) -> list[str] | None:
        """ "name 87%", as far as known."""
        if classes is None and scores is None:
            return None
        count = len(scores if classes is None else classes)
        parts: list[list[str]] = [[] for _ in range(count)]
        names = self.metadata.get("thing_classes")
        for i, part in enumerate(parts):
            if classes is not None:
                part.append(names[classes[i]] if names else str(classes[i]))
            if scores is not None:
                part.append(f"{scores[i] * 100:.0f}%")
            if crowds is not None and crowds[i]:
                part.append("(crowd)")
        return [" ".join(part) for part in parts]

    def _class_colors(self, classes: list[int], jittering: bool) -> list[np.ndarray]:
        palette = colormap(rgb=True, maximum=1)
        known = self.metadata.get("thing_colors")
        colors = [
            np.asarray(known[c]) / 255 if known else palette[c % len(palette)] for c in classes
        ]
        if not jittering:
            return colors
        return [np.clip(c + self._jitter.uniform(-0.12, 0.12, 3), 0, 1) for c in colors]

    def _as_masks(self, masks: Any) -> list[np.ndarray] | None:
        """Any representation of N masks -> N bool arrays of the image's size."""
        if masks is None:
            return None
        if isinstance(masks, PolygonMasks):
            masks = masks.polygons
        elif isinstance(masks, BitMasks):
            masks = masks.tensor
        if isinstance(masks, torch.Tensor):
            masks = masks.cpu().numpy()
        return [self._as_mask(m) for m in masks]

    def _as_mask(self, mask: Mask) -> np.ndarray:
        height, width = self.img.shape[:2]
        if isinstance(mask, list):
            polygons = [np.asarray(p, dtype=np.float64) for p in mask]
            return polygons_to_bitmask(polygons, height, width).astype(bool)
        if isinstance(mask, dict):
            if isinstance(mask["counts"], list):
                mask = mask_util.frPyObjects(mask, *mask["size"])
            mask = mask_util.decode(mask)
        return np.asarray(mask).astype(bool)

    def _grey_outside(self, masks: list[np.ndarray]) -> np.ndarray:
        grey = np.repeat(self.img.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
        for mask in masks:
            grey[mask] = self.img[mask]
        return grey


def _as_boxes(boxes: Any) -> np.ndarray | None:
    """(N, 4) float64."""
    if boxes is None:
        return None
    if isinstance(boxes, Boxes):
        boxes = boxes.tensor
    if isinstance(boxes, torch.Tensor):
        boxes = boxes.detach().cpu().numpy()
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)  # N rows, also where N is 0


def _hull(mask: np.ndarray) -> np.ndarray:
    """Tight XYXY box of a bool mask, (4,); zeros if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def _eroded(mask: np.ndarray) -> np.ndarray:
    """The pixels whose four neighbours are inside as well; the outside of the array is not."""
    padded = np.pad(mask, 1)
    across = padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & across & padded[:-2, 1:-1] & padded[2:, 1:-1]


def _rgb(color: Color) -> np.ndarray:
    """Colour in 0..1, or a name -> (3,) in 0..255."""
    if isinstance(color, str):
        name = _MATPLOTLIB_LETTERS.get(color, color)
        return np.array(ImageColor.getrgb(name)[:3], dtype=np.float64)
    return np.asarray(color, dtype=np.float64)[:3] * 255


def _mixed(pixels: np.ndarray, color: np.ndarray, alpha: float) -> np.ndarray:
    return (pixels * (1 - alpha) + color * alpha).astype(np.uint8)


def _blend(region: np.ndarray, color: np.ndarray, alpha: float) -> None:
    region[:] = _mixed(region, color, alpha)


@functools.lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)
