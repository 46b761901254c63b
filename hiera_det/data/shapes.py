"""A generated instance segmentation set in COCO's format: ``shapes_train`` and ``shapes_val``.

The quick start needs data that is there at once and that a small model learns in minutes, yet one
that goes through everything COCO goes through: objects of all three COCO sizes that overlap and
hide each other, masks of several parts, crowd regions, images without objects. Class is decided by
the outline; a class has its range of hues too, as things in the world do, so that minutes are
enough to learn it. Brightness, texture and background are drawn at random.

Nothing is generated at import: the set is made when ``DatasetCatalog.get("shapes_train")`` or
``"shapes_val"`` finds none under ``$DETECTRON2_DATASETS`` (default ``datasets``)::

    shapes/meta.json                                generator version and parameters
    shapes/{train,val}/00000.jpg
    shapes/annotations/instances_{train,val}.json

Everything is a function of the seed and the index of the image.

Outlines live on a grid ``SUPERSAMPLING`` times finer than the image, where ``owner`` of shape
(F, F) holds the label of the front-most object of each fine pixel. Visible masks and polygons are
read from it, so they agree with each other.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from iopath.common.file_io import file_lock

__all__ = ["CLASS_NAMES", "make_shapes", "register_shapes"]

logger = logging.getLogger(__name__)

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
VERSION = 3  # raise it whenever the same parameters would give other files
NUM_TRAIN, NUM_VAL, IMAGE_SIZE, SEED = 2000, 200, 160, 0

SUPERSAMPLING = 4
SMALL, LARGE = 32, 96  # sides of the squares whose areas divide COCO's small, medium and large
MIN_IN_FRAME = 0.8  # of a new object's area
MIN_VISIBLE = 0.5  # of an object's area in the frame, after all that is drawn over it
MIN_COLOR_DISTANCE = 100.0  # between an object, the background and the other objects, in 0..442
PLACEMENT_TRIES = 12
CROWD_EVERY, CROWD_AT = 25, 7  # images with index % every == at
EMPTY_EVERY, EMPTY_AT = 100, 12


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


def _coverage(fine_mask: np.ndarray) -> np.ndarray:
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
        if any(self._is_spoilt(label) for label in np.flatnonzero(hidden[1:]) + 1):
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
        view += (texture - view) * _coverage(mask)[..., None]

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


def _uncompressed_rle(mask: np.ndarray) -> dict:
    """COCO's uncompressed run-length encoding of a bool mask (H, W): how COCO stores crowds."""
    pixels = mask.ravel(order="F").astype(np.int8)  # (H, W) -> (W * H,), column by column
    changes = np.flatnonzero(np.diff(pixels, prepend=0, append=1 - pixels[-1]))
    return {"size": list(mask.shape), "counts": np.diff(changes, prepend=0).tolist()}


def _annotation(thing: ShapeObject) -> dict:
    """An entry of COCO's "annotations", without its ids."""
    if thing.is_crowd:
        mask = _coverage(thing.visible) >= 0.5
        box, segmentation = list(cv2.boundingRect(mask.view(np.uint8))), _uncompressed_rle(mask)
    else:
        points = np.concatenate([np.reshape(p, (-1, 2)) for p in thing.polygons])  # (num_points, 2)
        low, high = points.min(axis=0), points.max(axis=0)
        box, segmentation = np.round([*low, *(high - low)], 2).tolist(), thing.polygons
    return {
        "category_id": thing.category + 1,
        "iscrowd": int(thing.is_crowd),
        "bbox": box,
        "area": thing.area,
        "segmentation": segmentation,
    }


def _make_image(folder: Path, split_index: int, index: int, size: int, seed: int) -> list[dict]:
    """Draws and writes one image; its annotations."""
    rng = np.random.default_rng((seed, split_index, index))
    num_objects = 0 if index % EMPTY_EVERY == EMPTY_AT else int(rng.integers(2, 7))
    image, objects = draw_scene(rng, size, num_objects, index % CROWD_EVERY == CROWD_AT)
    path = folder / f"{index:05d}.jpg"
    if not cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92]):
        raise OSError(f"cannot write {path}: is the disk full?")
    return [_annotation(thing) for thing in objects]


def _make_split(folder: Path, split: str, split_index: int, num: int, size: int, seed: int) -> None:
    (folder / split).mkdir()
    # OpenCV and NumPy release the interpreter lock, so threads share the work.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        by_image = list(
            pool.map(lambda k: _make_image(folder / split, split_index, k, size, seed), range(num))
        )
    annotations: Iterator[dict] = (
        {"image_id": index, **annotation}
        for index, in_image in enumerate(by_image)
        for annotation in in_image
    )
    content = {
        "info": {"description": f"hiera_det shapes, version {VERSION}, {split}"},
        "images": [
            {"id": k, "file_name": f"{k:05d}.jpg", "height": size, "width": size}
            for k in range(num)
        ],
        # COCO's evaluation takes annotation id 0 for "no match", so ids start at 1.
        "annotations": [{"id": k, **annotation} for k, annotation in enumerate(annotations, 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASS_NAMES, 1)],
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _is_complete(folder: Path, parameters: dict | None = None) -> bool:
    """Whether the set is there.

    Raises:
        ValueError: it is there, but was made by another version or with other parameters.
    """
    if not folder.exists():
        return False
    meta_file = folder / "meta.json"
    fix = f"delete the folder {folder} to have it made anew, or choose another $DETECTRON2_DATASETS"
    try:
        found = json.loads(meta_file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is not a shapes set ({meta_file}: {error}); {fix}") from error
    expected = {"version": VERSION, **(parameters or {})}
    stale = {k: (found.get(k), v) for k, v in expected.items() if found.get(k) != v}
    if stale:
        differences = ", ".join(f"{k} is {a}, expected {b}" for k, (a, b) in stale.items())
        raise ValueError(f"the shapes set in {folder} is another one: {differences}; {fix}")
    return True


def make_shapes(
    root: str | os.PathLike,
    num_train: int = NUM_TRAIN,
    num_val: int = NUM_VAL,
    image_size: int = IMAGE_SIZE,
    seed: int = SEED,
) -> Path:
    """Makes the set in ``root/shapes``, or leaves it alone where the same one is there already.

    It is written into a folder beside it, which is renamed at the end: an interrupted run leaves no
    half set, and processes that start together wait for the first.

    Args:
        root: the folder that holds the datasets; created if missing.
        num_train, num_val: number of images.
        image_size: side of the images in px, at least 64.
        seed: the same seed gives the same files.

    Returns:
        ``root/shapes``.

    Raises:
        ValueError: a bad argument, or ``root/shapes`` holds another set; it is never overwritten.
    """
    if num_train < 1 or num_val < 1 or image_size < 64 or seed < 0:
        raise ValueError(
            "make_shapes needs num_train >= 1, num_val >= 1, image_size >= 64 and seed >= 0, "
            f"got {num_train}, {num_val}, {image_size}, {seed}"
        )
    parameters = {
        "num_train": num_train,
        "num_val": num_val,
        "image_size": image_size,
        "seed": seed,
    }
    root = Path(root)
    folder = root / "shapes"
    if _is_complete(folder, parameters):
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with file_lock(str(folder)):
        if _is_complete(folder, parameters):  # another process made it while this one waited
            return folder
        logger.info("Making %d + %d images of shapes in %s", num_train, num_val, folder)
        unfinished = Path(tempfile.mkdtemp(prefix=".shapes-", dir=root))
        try:
            (unfinished / "annotations").mkdir()
            for k, (split, num) in enumerate((("train", num_train), ("val", num_val))):
                _make_split(unfinished, split, k, num, image_size, seed)
            meta = {"version": VERSION, **parameters}
            (unfinished / "meta.json").write_text(json.dumps(meta, indent=2))
            unfinished.chmod(0o755)  # mkdtemp gives it to the user alone
            unfinished.rename(folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return folder


def _load(name: str, root: Path) -> list[dict]:
    """The dataset's dicts; makes the set first where there is none.

    A set that ``make_shapes`` was asked to make with other parameters is taken as it is.
    """
    if not _is_complete(root / "shapes"):
        make_shapes(root)
    metadata = MetadataCatalog.get(name)
    return load_coco_json(metadata.json_file, metadata.image_root, name)


def register_shapes(root: str | os.PathLike | None = None) -> None:
    """Registers ``shapes_train`` and ``shapes_val``, in place of an earlier registration.

    Args:
        root: the folder that holds the datasets; None for ``$DETECTRON2_DATASETS``.
    """
    if root is None:
        root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    root = Path(root)
    for split in ("train", "val"):
        name = f"shapes_{split}"
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        DatasetCatalog.register(name, lambda name=name: _load(name, root))
        MetadataCatalog.get(name).set(
            json_file=str(root / "shapes" / "annotations" / f"instances_{split}.json"),
            image_root=str(root / "shapes" / split),
            evaluator_type="coco",
            thing_classes=list(CLASS_NAMES),
            thing_colors=[list(color) for color in CLASS_COLORS],
            thing_dataset_id_to_contiguous_id={k + 1: k for k in range(len(CLASS_NAMES))},
        )


register_shapes()
