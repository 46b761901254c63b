"""What a format's reader returns: annotations in COCO's form, and what was left out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..changes import Changes
from ..images import SUFFIXES, upright_size

__all__ = ["SPLITS", "Builder", "Source", "find_images", "is_image", "split_of"]

SPLITS = {"valid": "val", "validation": "val", "val": "val", "train": "train", "test": "test"}


@dataclass
class Source:
    """A dataset as it was read.

    Attributes:
        kind: what it is, in words.
        content: the three lists of a COCO file; file names start from `image_root`.
        image_root: the folder.
        splits: the ids of the images of each, where the dataset has a split of its own.
        changes: what was left out while reading.
        notes: what else a person should know.
    """

    kind: str
    content: dict[str, Any]
    image_root: Path
    splits: dict[str, list[int]] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)
    notes: list[str] = field(default_factory=list)


class Builder:
    """Collects the images and objects of a dataset, one image at a time.

    Args:
        kind: what the dataset is, in words.
        class_names: the classes; their category ids count from 1.
    """

    def __init__(self, kind: str, class_names: Sequence[str]):
        self.kind = kind
        self.class_names = list(class_names)
        self.images: list[dict] = []
        self.annotations: list[dict] = []
        self.changes = Changes()
        self.notes: list[str] = []
        self.splits: dict[str, list[int]] = {}

    def add_image(self, path: Path, split: str | None = None) -> dict | None:
        """A new image, of the size in which it is read: upright. None if it cannot be read."""
        try:
            width, height = upright_size(path)
        except (OSError, ValueError) as error:
            self.changes.add("image that cannot be read", "left out", str(error))
            return None
        image: dict[str, Any] = {
            "id": len(self.images) + 1,
            "file_name": str(Path(os.path.abspath(path))),  # relative to the root in the end
            "width": width,
            "height": height,
        }
        self.images.append(image)
        if split is not None:
            self.splits.setdefault(split, []).append(image["id"])
        return image

    def drop_last_image(self) -> None:
        """Takes back the last image, which has no objects yet."""
        image = self.images.pop()
        for members in self.splits.values():
            if members and members[-1] == image["id"]:
                members.pop()

    def add_object(
        self,
        image: dict,
        class_index: int,
        box: list[float],
        segmentation: list | dict | None = None,
        area: float | None = None,
        is_crowd: bool = False,
    ) -> None:
        """A new object; box: x, y, width, height in px."""
        annotation = {
            "id": len(self.annotations) + 1,
            "image_id": image["id"],
            "category_id": class_index + 1,
            "bbox": box,
            "area": box[2] * box[3] if area is None else area,
            "iscrowd": int(is_crowd),
        }
        if segmentation is not None:
            annotation["segmentation"] = segmentation
        self.annotations.append(annotation)

    def source(self, root: Path) -> Source:
        """The dataset, its file names from the deepest folder that holds all images.

        Raises:
            ValueError: there is no image.
        """
        if not self.images:
            raise ValueError(f"{root}: no image of the {self.kind} can be used\n{self.changes}")
        listed = {number for members in self.splits.values() for number in members}
        if len(self.splits) < 2 or len(listed) < len(self.images):
            self.splits = {}  # of a part alone, or into one part
        folders = [os.path.dirname(image["file_name"]) for image in self.images]
        image_root = os.path.commonpath(folders)
        for image in self.images:
            image["file_name"] = Path(os.path.relpath(image["file_name"], image_root)).as_posix()
        content = {
            "images": self.images,
            "annotations": self.annotations,
            "categories": [{"id": k, "name": name} for k, name in enumerate(self.class_names, 1)],
        }
        return Source(self.kind, content, Path(image_root), self.splits, self.changes, self.notes)


def is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def find_images(folder: Path) -> list[Path]:
    """The images in a folder and its sub-folders, sorted; hidden files and folders left out."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in sorted(names) if is_image(Path(parent, name))]
    return found


def split_of(inside: Path) -> str | None:
    """The split that a path within images/ names by its first folder, as val/a.png."""
    return SPLITS.get(inside.parts[0].lower()) if len(inside.parts) > 1 else None
