"""A user's own data: any COCO-format JSON, with the class names that stand in it."""

import gc
import json
import os
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from .coco_annotations import is_id, is_image_id
from .findings import show

__all__ = [
    "class_names",
    "max_objects",
    "num_classes",
    "num_images",
    "num_proposals",
    "parse_coco_json",
    "read_coco_json",
    "refuse_existing",
    "register_coco_json",
    "registered_name",
    "write_coco_json",
]

MAX_OBJECTS = 100  # Detectron2's detections an image, and COCO's
MIN_PROPOSALS, PROPOSALS_PER_OBJECT = 1000, 4

LISTS = ("images", "annotations", "categories")
_LISTS = "the lists 'images', 'annotations' and 'categories'"


def read_coco_json(json_file: str | os.PathLike) -> dict[str, Any]:
    """Reads a COCO-format file and makes sure of its outermost structure.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON (perhaps cut short), or not COCO's object of three lists.
    """
    path = Path(json_file)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a COCO-format JSON file")
    return parse_coco_json(path.read_bytes(), str(path))


def parse_coco_json(text: bytes, path: str) -> dict[str, Any]:
    """`read_coco_json` for the text of a file; `path` stands for it in errors.

    Raises:
        ValueError: as there.
    """
    # Each of millions of new lists counts towards a collection that walks all of them and finds
    # nothing: on train2017 that is half of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        content = json.loads(text)
    # JSONDecodeError, UnicodeDecodeError of a binary file, or lists nested thousands deep
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON: {error}; if the file was copied or downloaded, "
            f"it may be cut short ({len(text)} bytes)"
        ) from error
    finally:
        if collects:
            gc.enable()
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object with {_LISTS}")
    for key in LISTS:
        value = content.get(key)
        if not isinstance(value, list):
            found = "is missing" if key not in content else f"is a {type(value).__name__}"
            raise ValueError(
                f"{path} is not COCO's format: '{key}' {found}; it needs {_LISTS} (empty ones "
                "where there are none, as in a file of images alone)"
            )
        wrong = next((k for k, entry in enumerate(value) if not isinstance(entry, dict)), None)
        if wrong is not None:
            raise ValueError(
                f"{path} is not COCO's format: '{key}'[{wrong}] is {show(value[wrong])}, no object"
            )
    return content


def refuse_existing(path: str | os.PathLike) -> None:
    """Raises FileExistsError if there is anything at the path."""
    if os.path.lexists(path):
        raise FileExistsError(f"{path} is there already: remove it, or choose another name")


def write_coco_json(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Writes a COCO-format file, whole or not at all.

    Raises:
        FileExistsError: there is a file of that name.
    """
    path = Path(path)
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(json.dumps(content), encoding="utf-8")
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def class_names(json_file: str | os.PathLike) -> list[str]:
    """The class names of a COCO-format file, by rising category id: Detectron2's class order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not COCO's format, or has no categories.
    """
    path = Path(json_file).resolve()
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    return list(_class_names(path, changed))


@lru_cache(maxsize=16)  # a large file takes seconds to parse, and configs ask more than once
def _class_names(path: Path, changed: int) -> tuple[str, ...]:
    categories = read_coco_json(path)["categories"]
    if not categories:
        raise ValueError(f"{path}: 'categories' is empty; list each class with its 'id' and 'name'")
    for k, category in enumerate(categories):
        if not is_id(category.get("id")) or not isinstance(category.get("name"), str):
            raise ValueError(
                f"{path}: 'categories'[{k}] is {show(category)}; "
                "it needs an 'id' that is a whole number and a 'name' that is a string"
            )
    return tuple(c["name"] for c in sorted(categories, key=lambda c: c["id"]))


def register_coco_json(
    name: str, json_file: str | os.PathLike, image_root: str | os.PathLike
) -> list[str]:
    """Registers a COCO-format dataset under a name, for `dataloader.*.dataset.names`.

    Registering the same files again does nothing: a config may be loaded more than once.

    Args:
        name: a name of your choice.
        json_file: the annotations.
        image_root: the folder that the JSON's `file_name` entries start from.

    Returns:
        The class names, in the order of the model's outputs.

    Raises:
        FileNotFoundError: the file or the folder is missing.
        ValueError: the file is not COCO's format, or the name stands for other files already.
    """
    json_file, image_root = str(json_file), str(image_root)
    names = class_names(json_file)
    if not os.path.isdir(image_root):
        raise FileNotFoundError(f"{image_root}: no such folder; give the folder with the images")
    if name in DatasetCatalog:
        metadata = MetadataCatalog.get(name)
        there = (metadata.get("json_file"), metadata.get("image_root"))
        # A run names its files as the user did, its config.yaml from the root of the disk.
        here = (os.path.abspath(json_file), os.path.abspath(image_root))
        if tuple(os.path.abspath(path or "") for path in there) != here:
            raise ValueError(f"the name {name!r} stands for {there} already; choose another name")
    else:
        register_coco_instances(name, {"thing_classes": names}, json_file, image_root)
    return names


def registered_name(json_file: str, image_root: str) -> str:
    """Registers the files of a config on first use; the name tells them in logs and errors.

    In configs: `"${register_coco_json:${dataloader.val_json},${dataloader.val_images}}"`.
    """
    name = f"{Path(json_file).stem} ({Path(json_file).resolve().parent})"
    register_coco_json(name, json_file, image_root)
    return name


def num_classes(json_file: str) -> int:
    """The number of categories of a COCO-format file; `${num_classes:…}` in configs."""
    return len(class_names(json_file))


def num_images(json_file: str | os.PathLike) -> int:
    """Images with an object, which are those that training sees (crowds do not count).

    Raises:
        FileNotFoundError, ValueError: as `read_coco_json`.
    """
    return len(_objects_per_image(json_file))


def max_objects(*json_files: str | os.PathLike) -> int:
    """How many objects an image a model of these files must be able to find.

    Detectron2 keeps 100 detections an image and COCO's metric counts 100, which is enough for COCO
    (93 at most). Here it is the count of the fullest image of all files, rounded up to whole
    hundreds, and 100 at least. Crowds do not count.

    Raises:
        FileNotFoundError, ValueError: as `read_coco_json`.
    """
    most = max(max(_objects_per_image(f).values(), default=0) for f in json_files)
    return max(MAX_OBJECTS, -(-most // MAX_OBJECTS) * MAX_OBJECTS)


def num_proposals(*json_files: str | os.PathLike) -> int:
    """Proposals an image for `max_objects`: four for each of them, and Detectron2's 1000 at least.

    Raises:
        FileNotFoundError, ValueError: as `read_coco_json`.
    """
    return max(MIN_PROPOSALS, PROPOSALS_PER_OBJECT * max_objects(*json_files))


def _objects_per_image(json_file: str | os.PathLike) -> Counter:
    path = Path(json_file).resolve()
    return _cached_objects(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=16)
def _cached_objects(path: Path, changed: int) -> Counter:
    # Bad ids are left to the check, which names them.
    return Counter(
        a["image_id"]
        for a in read_coco_json(path)["annotations"]
        if is_image_id(a.get("image_id")) and not a.get("iscrowd", 0)
    )
