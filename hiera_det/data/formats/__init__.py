"""Formats of datasets that become COCO JSON: a module for each, with `detect` and `read`."""

from pathlib import Path
from types import ModuleType

from ..coco_fix import fix_coco_content
from . import coco, label_maps, masks, voc, yolo
from .source import Source

__all__ = ["FORMATS", "read_dataset"]

FORMATS: dict[str, ModuleType] = {  # in the order in which they are tried
    "coco": coco,
    "yolo": yolo,
    "voc": voc,
    "masks": masks,
    "label-maps": label_maps,
}
LAYOUTS = (
    "a COCO JSON file; a YOLO folder (data.yaml); a Pascal VOC folder (*.xml); images/ with "
    "masks/NAME/*.png or ID/images/ID.png with ID/masks/*.png, one mask an instance; images/ with "
    "masks/*.png, label maps"
)


def read_dataset(
    path: Path, format: str | None = None, *, images: Path | None = None, class_name: str = "object"
) -> Source:
    """Reads a dataset of any known format; what is bad in it is repaired or left out.

    Args:
        path: a file or a folder.
        format: one of `FORMATS`; None finds out.
        images: the image folder of a COCO JSON; None looks around the file.
        class_name: of objects in formats without classes (masks, label maps).

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is none of the formats, or nothing in it can be used.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    notes = []
    if format is None:
        found = [name for name, module in FORMATS.items() if module.detect(path)]
        if not found:
            raise ValueError(f"{path} is none of the datasets that are known: {LAYOUTS}")
        format, *others = found
        if others:
            notes.append(f"it could also be read with --format {' or '.join(others)}")
    if format == "coco":
        source = coco.read(path, images)
    elif format in ("masks", "label-maps"):
        source = FORMATS[format].read(path, class_name)
    else:
        source = FORMATS[format].read(path)
    if format != "coco":  # which repairs each of its files before it merges them
        source.content, changes = fix_coco_content(
            source.content, source.image_root, need_masks=False, name=str(path)
        )
        source.changes.merge(changes)
    source.notes = notes + source.notes
    return source
