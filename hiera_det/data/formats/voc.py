"""Pascal VOC: an XML file for each image, with boxes.

Layout and pixels as in VOC's development kit: corners count from 1 and are part of the object.
"""

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from ..progress import progress
from .source import Builder, Source, find_images

__all__ = ["detect", "read"]

NAME = "Pascal VOC folder"
LISTS = ("ImageSets/Main", "ImageSets/Segmentation")  # of the images of each split
SPLITS = ("train", "val", "test")


def detect(path: Path) -> bool:
    files = _xml_files(path) if path.is_dir() else []
    return any(_parse(file) is not None for file in files[:5])


def read(path: Path) -> Source:
    """Reads a folder with Annotations/*.xml and JPEGImages/, or with both beside each other."""
    builder = Builder(NAME, [])
    by_name: dict[str, list[Path]] = {}
    by_stem: dict[str, list[Path]] = {}
    for found in find_images(path):
        if "SegmentationObject" in found.parts or "SegmentationClass" in found.parts:
            continue
        by_name.setdefault(found.name, []).append(found)
        by_stem.setdefault(found.stem, []).append(found)
    splits = _splits(path)
    names: dict[str, int] = {}
    for file in progress(_xml_files(path), "VOC"):
        root = _parse(file)
        if root is None:
            builder.changes.add("XML file that is no annotation of VOC", "left out", str(file))
            continue
        name = os.path.basename((root.findtext("filename") or "").strip().replace("\\", "/"))
        image_file = _nearest(file, by_name.get(name) or by_stem.get(file.stem) or [])
        if image_file is None:
            builder.changes.add("XML file without its image", "left out", f"{file}: {name!r}")
            continue
        split = next((s for s, stems in splits.items() if file.stem in stems), None)
        image = builder.add_image(image_file, split)
        if image is not None and _has_size_of(root, image, file, builder):
            for item in root.iter("object"):
                _add(item, image, names, file, builder)
    # By name, so that two sets of the same classes number them alike.
    builder.class_names = sorted(names)
    order = {names[name]: k for k, name in enumerate(builder.class_names, 1)}
    for annotation in builder.annotations:
        annotation["category_id"] = order[annotation["category_id"] - 1]
    _say_without_split(builder)
    return builder.source(path)


def _xml_files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*.xml") if not file.name.startswith("."))


def _parse(file: Path) -> ElementTree.Element | None:
    try:
        root = ElementTree.fromstring(file.read_bytes())
    except (ElementTree.ParseError, ValueError, OSError):
        return None
    return root if root.tag == "annotation" else None


def _nearest(xml_file: Path, images: list[Path]) -> Path | None:
    """Of images of one name, the one with the most of its path in common with the XML file."""
    if not images:
        return None
    return max(images, key=lambda image: len(os.path.commonpath([xml_file, image])))


def _splits(path: Path) -> dict[str, set[str]]:
    """The names of the images of each split, if the folder has lists of them."""
    for folder in LISTS:
        found = {}
        for split in SPLITS:
            file = path / folder / f"{split}.txt"
            if file.is_file():
                lines = file.read_text(encoding="utf-8-sig").splitlines()
                found[split] = {line.split()[0] for line in lines if line.strip()}
        if len(found) > 1:
            return found
    return {}


def _say_without_split(builder: Builder) -> None:
    """Images that no list names are not part of a split."""
    if not builder.splits:
        return
    listed = {number for members in builder.splits.values() for number in members}
    rest = len(builder.images) - len(listed)
    if rest:
        builder.changes.add("image that no list in ImageSets names", "left out", count=rest)
        builder.images = [image for image in builder.images if image["id"] in listed]
        builder.annotations = [a for a in builder.annotations if a["image_id"] in listed]


def _has_size_of(root: ElementTree.Element, image: dict, file: Path, builder: Builder) -> bool:
    """Whether the XML file was written for an image of this size; its objects count only then."""
    said = [_number(root.findtext(f"size/{key}")) for key in ("width", "height")]
    if None in said or 0 in said or said == [image["width"], image["height"]]:
        return True
    found = f"{image['width']:d} x {image['height']:d}"
    example = f"{file}: {said[0]:g} x {said[1]:g}, {image['file_name']} is {found}"
    builder.changes.add("XML file of another size than its image", "image left out", example)
    builder.drop_last_image()
    return False


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _add(
    item: ElementTree.Element, image: dict, names: dict[str, int], file: Path, builder: Builder
) -> None:
    name = (item.findtext("name") or "").strip()
    found = [_number(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
    corners = [value for value in found if value is not None]
    if not name or len(corners) < 4:
        builder.changes.add("object without a name or a box", "left out", f"{file}: {name!r}")
        return
    x0, y0, x1, y1 = corners
    is_difficult = (item.findtext("difficult") or "0").strip() == "1"
    if is_difficult:
        what = "object marked difficult"
        builder.changes.add(what, "made a crowd: neither learnt nor counted", f"{file}: {name!r}")
    number = names.setdefault(name, len(names))
    box = [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]
    builder.add_object(image, number, box, is_crowd=is_difficult)
