"""Scenes of the generated shapes: images and their objects, drawn from a source of randomness.

Objects of all three COCO sizes overlap and hide each other. Class is decided by the outline; a
class has its range of hues too, as things in the world do, so that minutes are enough to learn it.
Brightness, texture and background are drawn at random.

Outlines live on a grid `SUPERSAMPLING` times finer than the image, where `owner` of shape (F, F)
holds the label of the front-most object of each fine pixel. Visible masks and polygons are read
from it, so they agree with each other.
"""

from typing import NamedTuple

import cv2
import numpy as np

__all__ = ["CLASS_COLORS", "CLASS_NAMES", "ShapeObject", "coverage", "draw_scene"]

CLASS_NAMES = ("disc", "square", "triangle", "star", "cross", "crescent")
CLASS_COLORS = (  # RGB, to draw predictions
    (230, 60, 60),
    (60, 120, 240),
    (250, 200, 40),
    (60, 190, 90),
    (190, 80, 220),
    (40, 200, 220),
)
CLASS_HUES = (0.0, 0.64, 0.15, 0.34, 0.81, 0.49)  # of CLASS_COLORS, in turns
HUE_SPREAD = 0.04  # turns to each side

SUPERSAMPLING = 4
SMALL, LARGE = 32, 96  # sides of the squares whose areas divide COCO's small, medium and large
MIN_IN_FRAME = 0.8  # of a new object's area
MIN_VISIBLE = 0.5  # of an object's area in the frame, after all that is drawn over it
MIN_COLOR_DISTANCE = 100.0  # between an object, the background and the other objects, in 0..442
PLACEMENT_TRIES = 12


class ShapeObject(NamedTuple):
    """An annotated object, or a crowd of them.

    category: index into CLASS_NAMES. visible: the fine mask of what is seen of it, uint8 0 or 1
    of shape (F, F). area: of that, in px^2.
    polygons: COCO polygons [x0, y0, x1, y1, ...] in px, one per visible part; empty for a crowd.
    """

    category: int
    visible: np.ndarray
    area: float
    polygons: list[list[float]]
    is_crowd: bool


class Window(NamedTuple):
    """A rectangle of whole pixels."""

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def around(cls, points: np.ndarray, size: int) -> "Window":
        """The smallest one around points (num_points, 2), clipped to an image of that side."""
        x, y = np.floor(points.min(axis=0)).astype(int).clip(0, size - 1)
        right, bottom = np.ceil(points.max(axis=0)).astype(int).clip(1, size)
        return cls(x, y, max(1, right - x), max(1, bottom - y))

    def slices(self, scale: int = 1) -> tuple[slice, slice]:
        """For arrays of shape (H * scale, W * scale)."""
        rows = slice(self.y * scale, (self.y + self.height) * scale)
        return rows, slice(self.x * scale, (self.x + self.width) * scale)


def _unit_outlines() -> dict[str, np.ndarray]:
    """Outlines by class, float64 (num_points, 2), of area 1 around their centre of mass."""

    def arc(start: float, stop: float, num: int, radius: float = 1.0, x: float = 0.0) -> np.ndarray:
        angle = np.radians(np.linspace(start, stop, num))
        return np.stack([x + radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    star = arc(0, 360, 11)[:-1]
    star[1::2] *= 0.42
    arm = 0.36
    quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
    turn = np.array([[0, -1], [1, 0]])
    cross = [quarter @ np.linalg.matrix_power(turn, -k) for k in range(4)]
    # The unit circle without a circle of radius 0.75 around (0.55, 0); they meet at +-47.7 degrees,
    # which is +-80.6 degrees on the second.
    crescent = [arc(47.7, 312.3, 48), arc(279.4, 80.6, 36, radius=0.75, x=0.55)]
    outlines = {
        "disc": arc(0, 360, 65)[:-1],
        "square": arc(45, 405, 5)[:-1],
        "triangle": arc(0, 360, 4)[:-1],
        "star": star,
        "cross": np.concatenate(cross),
        "crescent": np.concatenate(crescent),
    }
    for name, points in outlines.items():
        moments = cv2.moments(points.astype(np.float32))
        centre = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
        outlines[name] = (points - centre) / np.sqrt(abs(moments["m00"]))
    return outlines


_OUTLINES = _unit_outlines()


def _outline(rng: np.random.Generator, category: int, side: float) -> np.ndarray:
    """A rotated and slightly stretched outline of area side^2 px^2 around 0: (num_points, 2)."""
    angle, stretch = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(-0.15, 0.15))
    cos, sin = np.cos(angle), np.sin(angle)
    points = _OUTLINES[CLASS_NAMES[category]] @ np.diag([stretch, 1 / stretch])
    return side * points @ np.array([[cos, sin], [-sin, cos]])


def _fine_mask(points: np.ndarray, window: Window) -> np.ndarray:
    """Rasterises an outline given in px: uint8 of 0 and 1, of the window's fine size."""
    mask = np.zeros((window.height * SUPERSAMPLING, window.width * SUPERSAMPLING), np.uint8)
    # OpenCV puts pixel centres at whole numbers; 4 fractional bits are kept.
    fixed_point = ((points - (window.x, window.y)) * SUPERSAMPLING - 0.5) * 16
    return cv2.fillPoly(mask, [np.round(fixed_point).astype(np.int32)], 1, shift=4)


def coverage(fine_mask: np.ndarray) -> np.ndarray:
    """The share of each pixel that a fine mask covers: float32 in 0..1."""
    height, width = (side // SUPERSAMPLING for side in fine_mask.shape)
    share = cv2.resize(fine_mask * np.uint8(255), (width, height), interpolation=cv2.INTER_AREA)
    return share.astype(np.float32) / 255


def _polygons(fine_mask: np.ndarray) -> tuple[list[list[float]], bool]:
    """COCO polygons of the parts of a fine mask, and whether it has a hole, which they cannot show.

    Parts and holes under 1 px^2 are left out.
    """
    # findContours names the outermost pixels, COCO the corners of pixels, which lie one further
    # right and below. With every pixel copied to there, the two are the same.
    grown = np.pad(fine_mask, (0, 1))
    grown = cv2.dilate(grown, np.ones((2, 2), np.uint8), anchor=(1, 1))
    contours, hierarchy = cv2.findContours(grown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons, has_hole = [], False
    for k, contour in enumerate(contours):
        if cv2.contourArea(contour) < SUPERSAMPLING**2:
            continue
        if hierarchy[0, k, 3] >= 0:  # it has a parent: the rim of a hole
            has_hole = True
            continue
        points = cv2.approxPolyDP(contour, 0.8, True)[:, 0]  # (num_points, 1, 2) -> (num_points, 2)
        polygons.append((points / SUPERSAMPLING).ravel().tolist())  # (num_points, 2) -> x, y, x, y
    return polygons, has_hole


def _color(
    rng: np.random.Generator, others: list[np.ndarray], category: int | None = None
) -> np.ndarray:
    """A random RGB colour (3,) that is told from the others, or the most distant one of 32.

    Args:
        rng: the source of randomness.
        others: colours in the image so far.
        category: objects are vivid, around the hue of their class; None is a dull background.
    """
    if category is None:
        hue, saturation = rng.uniform(0, 1, 32), rng.uniform(0, 0.3, 32)
    else:
        hue = (CLASS_HUES[category] + rng.uniform(-HUE_SPREAD, HUE_SPREAD, 32)) % 1
        saturation = rng.uniform(0.5, 1, 32)
    hsv = np.stack([360 * hue, saturation, rng.uniform(0.4, 0.95, 32)], axis=1)
    hsv = hsv[None].astype(np.float32)  # OpenCV's image of (1, 32, 3)
    candidates = 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0]
    if not others:
        return candidates[0]
    # (32, 1, 3) - (num_others, 3) -> (32, num_others)
    distance = np.linalg.norm(candidates[:, None] - np.stack(others), axis=2).min(axis=1)
    distinct = distance >= MIN_COLOR_DISTANCE
    return candidates[distinct.argmax() if distinct.any() else distance.argmax()]


def _texture(rng: np.random.Generator, color: np.ndarray, height: int, width: int) -> np.ndarray:
    """A pattern and grain around an RGB colour: float32 (height, width, 3)."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(6, 20)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = cos * x + sin * y, cos * y - sin * x  # (height, width)
    frequency = np.float32(2 * np.pi / period)
    kind = rng.choice(["plain", "gradient", "stripes", "checks", "noise"])
    if kind == "plain":
        pattern = np.zeros_like(u)  # every pattern: (height, width), in -1..1
    elif kind == "gradient":
        pattern = (u - u.min()) / (np.ptp(u) + 1) * 2 - 1
    elif kind == "stripes":
        pattern = np.clip(3 * np.sin(frequency * u), -1, 1)
    elif kind == "checks":
        pattern = np.clip(4 * np.sin(frequency * u) * np.sin(frequency * v), -1, 1)
    else:
        coarse_shape = (2 + int(height / period), 2 + int(width / period))
        coarse = rng.uniform(-1.5, 1.5, coarse_shape).astype(np.float32)
        pattern = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(-1, 1)
    swing = rng.choice([-1, 1]) * rng.uniform(8, 24) * rng.uniform(0.4, 1.0, 3)  # RGB
    grain = rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(1, 6))
    return color.astype(np.float32) + pattern[..., None] * swing.astype(np.float32) + grain


class _Canvas:
    """An image in the making: the picture, and which object owns each fine pixel."""

    def __init__(self, rng: np.random.Generator, size: int):
        self.rng, self.size = rng, size
        self.colors = [_color(rng, [])]
        self.image = _texture(rng, self.colors[0], size, size)  # float32 RGB (H, W, 3)
        self.owner = np.zeros((size * SUPERSAMPLING,) * 2, np.uint8)  # (F, F); 0 is background
        self.full_area = [0]  # by label, in fine pixels: the area in the frame before any occlusion

    def try_place(self, category: int, side: float, centre: np.ndarray) -> bool:
        """Draws a new object in front of all others, unless that spoils it or one of them."""
        outline = _outline(self.rng, category, side) + centre
        window = Window.around(outline, self.size)
        mask = _fine_mask(outline, window)
        area = int(np.count_nonzero(mask))
        if area < MIN_IN_FRAME * (side * SUPERSAMPLING) ** 2:
            return False
        owners = self.owner[window.slices(SUPERSAMPLING)]  # a view
        before = owners.copy()
        np.copyto(owners, len(self.full_area), where=mask.view(bool))
        hidden = np.bincount(before[mask.view(bool)], minlength=1)
        if any(self._is_spoilt(label) for label in (np.flatnonzero(hidden[1:]) + 1).tolist()):
            owners[:] = before
            return False
        self.full_area.append(area)
        self._paint(mask, window, category)
        return True

    def _is_spoilt(self, label: int) -> bool:
        """Whether too little of an object is left, or it has a hole, which polygons cannot show."""
        visible = (self.owner == label).view(np.uint8)
        area = cv2.countNonZero(visible)
        return area < MIN_VISIBLE * self.full_area[label] or _polygons(visible)[1]

    def place_crowd(self, category: int) -> None:
        """Draws a cluster of small objects of one class and colour under one label."""
        frame = Window(0, 0, self.size, self.size)
        middle = self.rng.uniform(0.25, 0.75, 2) * self.size
        union = np.zeros_like(self.owner)
        for side in self.rng.uniform(6, 14, self.rng.integers(14, 26)):
            spread = self.rng.normal(0, self.size / 9, 2)
            union |= _fine_mask(_outline(self.rng, category, side) + middle + spread, frame)
        self.owner[union > 0] = len(self.full_area)
        self.full_area.append(cv2.countNonZero(union))
        self._paint(union, frame, category)

    def _paint(self, mask: np.ndarray, window: Window, category: int) -> None:
        """Blends a new colour and texture into the image, by a fine mask of a window of it."""
        self.colors.append(_color(self.rng, self.colors, category))
        texture = _texture(self.rng, self.colors[-1], window.height, window.width)
        view = self.image[window.slices()]
        view += (texture - view) * coverage(mask)[..., None]

    def visible_object(self, label: int, category: int, is_crowd: bool) -> ShapeObject:
        fine = (self.owner == label).view(np.uint8)
        polygons = [] if is_crowd else _polygons(fine)[0]
        area = cv2.countNonZero(fine) / SUPERSAMPLING**2
        return ShapeObject(category, fine, area, polygons, is_crowd)


def draw_scene(
    rng: np.random.Generator, size: int, num_objects: int, has_crowd: bool = False
) -> tuple[np.ndarray, list[ShapeObject]]:
    """Draws one image.

    Args:
        rng: the source of all randomness.
        size: side of the image in px.
        num_objects: how many objects are tried; one that finds no place is left out.
        has_crowd: whether a crowd lies behind them.

    Returns:
        The image, uint8 RGB (size, size, 3), and its objects from back to front.
    """
    canvas = _Canvas(rng, size)
    kinds = []  # (category, is_crowd) by label - 1
    if has_crowd:
        category = int(rng.integers(len(CLASS_NAMES)))
        canvas.place_crowd(category)
        kinds.append((category, True))
    # At most one large object, or nothing else finds a place; larger ones lie further back.
    is_large = np.arange(num_objects) < (rng.random() < 0.85)
    is_small = rng.random(num_objects) < 0.4
    log_side = np.where(
        is_large,
        rng.uniform(np.log(LARGE * 1.15), np.log(LARGE * 1.5), num_objects),
        np.where(
            is_small,
            rng.uniform(np.log(SMALL * 0.6), np.log(SMALL), num_objects),
            rng.uniform(np.log(SMALL), np.log(LARGE * 0.75), num_objects),
        ),
    )
    sides = np.minimum(np.exp(log_side), 0.75 * size)
    for side in np.sort(sides)[::-1]:
        category = int(rng.integers(len(CLASS_NAMES)))
        # Half a side from the edge, or a little more or less: some objects are cut by the frame.
        margin = min(0.55 * side, size / 2)
        for _ in range(PLACEMENT_TRIES):
            if canvas.try_place(category, side, rng.uniform(margin, size - margin, 2)):
                kinds.append((category, False))
                break
    objects = [canvas.visible_object(k + 1, *kind) for k, kind in enumerate(kinds)]
    return canvas.image.round().clip(0, 255).astype(np.uint8), objects
