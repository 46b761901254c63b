"""A generated instance segmentation set in COCO's format: `shapes_train` and `shapes_val`.

The quick start needs data that is there at once and that a small model learns in minutes, yet one
that goes through everything COCO goes through: objects of all sizes that overlap, masks of several
parts, crowd regions, images without objects. `shapes_draw` draws them.

The set is made when `DatasetCatalog.get("shapes_train")` or `"shapes_val"` finds none under
`$DETECTRON2_DATASETS` (default `datasets`), and is a function of the seed:

    shapes/meta.json                                generator version and parameters
    shapes/{train,val}/00000.jpg
    shapes/annotations/instances_{train,val}.json
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from iopath.common.file_io import file_lock

from .shapes_draw import CLASS_COLORS, CLASS_NAMES, ShapeObject, coverage, draw_scene

__all__ = ["make_shapes", "register_shapes"]

logger = logging.getLogger(__name__)

VERSION = 3  # raise it whenever the same parameters would give other files
NUM_TRAIN, NUM_VAL, IMAGE_SIZE, SEED = 2000, 200, 160, 0
CROWD_EVERY, CROWD_AT = 25, 7  # images with index % every == at
EMPTY_EVERY, EMPTY_AT = 100, 12


def _uncompressed_rle(mask: np.ndarray) -> dict:
    """COCO's uncompressed run-length encoding of a bool mask (H, W): how COCO stores crowds."""
    pixels = mask.ravel(order="F").astype(np.int8)  # (H, W) -> (W * H,), column by column
    changes = np.flatnonzero(np.diff(pixels, prepend=0, append=1 - pixels[-1]))
    return {"size": list(mask.shape), "counts": np.diff(changes, prepend=0).tolist()}


def _annotation(thing: ShapeObject) -> dict:
    """An entry of COCO's "annotations", without its ids."""
    segmentation: dict | list[list[float]]
    if thing.is_crowd:
        mask = coverage(thing.visible) >= 0.5
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
    """Makes the set in `root/shapes`, or leaves it alone where the same one is there already.

    It is written into a folder beside it, which is renamed at the end: an interrupted run leaves no
    half set, and processes that start together wait for the first.

    Args:
        root: the folder that holds the datasets; created if missing.
        num_train, num_val: number of images.
        image_size: side of the images in px, at least 64.
        seed: the same seed gives the same files.

    Returns:
        `root/shapes`.

    Raises:
        ValueError: a bad argument, or `root/shapes` holds another set; it is never overwritten.
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

    A set that `make_shapes` was asked to make with other parameters is taken as it is.
    """
    if not _is_complete(root / "shapes"):
        make_shapes(root)
    metadata = MetadataCatalog.get(name)
    return load_coco_json(metadata.json_file, metadata.image_root, name)


def register_shapes(root: str | os.PathLike | None = None) -> None:
    """Registers `shapes_train` and `shapes_val`, in place of an earlier registration.

    Args:
        root: the folder that holds the datasets; None for `$DETECTRON2_DATASETS`.
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
