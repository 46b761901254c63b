"""Check of a COCO-format dataset: its faults, by image and annotation, with their fixes.

Most faults of a dataset do not stop Detectron2: instances are dropped without a word, classes are
mixed up, or a worker dies hours into the run. Here each becomes a finding that names the file, the
entry, the value and the fix.

A finding is an error when the run would fail or learn or measure something else than meant. Bad
boxes and masks are errors only where they are many (`coco_annotations.SYSTEMATIC`): COCO itself has
a few of them, which Detectron2 leaves out.
"""

import math
import os
from collections import Counter, defaultdict
from operator import itemgetter

from PIL import Image

from .coco_annotations import AnnotationChecker, is_id, is_image_id, is_side, shorten
from .coco_json import MAX_OBJECTS, read_coco_json
from .findings import Findings, Report, show
from .images import STACK, describe_images

__all__ = ["check_coco_content", "check_coco_json"]

NUM_SIZES = 200  # image files that are opened to compare their size
EXIF_ORIENTATION = 0x0112


def check_coco_json(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    num_classes: int | None = None,
    need_masks: bool = True,
    split: str | None = None,
    page: int | None = None,
) -> Report:
    """Checks a COCO-format dataset; the file is parsed once.

    Args:
        json_file: the annotations.
        image_root: the folder that the file names start from.
        num_classes: of the model, if they are to agree.
        need_masks: whether every object needs a mask.
        split: "train" or "val", for what only training or only evaluation needs; None reports
            both as warnings.
        page: of image files that hold several, which one is meant; None refuses those.

    Returns:
        What was found; call its `raise_if_errors`. Nothing is raised for a bad dataset here.

    Raises:
        ValueError: an unknown `split`.
    """
    check_split(split)
    try:
        content = read_coco_json(json_file)
    except (FileNotFoundError, ValueError) as error:
        return _failure(str(json_file), error)
    return check_coco_content(
        content,
        str(json_file),
        str(image_root),
        num_classes=num_classes,
        need_masks=need_masks,
        split=split,
        page=page,
    )


def check_split(split: str | None) -> None:
    if split not in (None, "train", "val"):
        raise ValueError(f'split={show(split)} is none of None, "train", "val"')


def _failure(file: str, error: Exception) -> Report:
    """The report on a file that cannot even be read."""
    is_missing = isinstance(error, FileNotFoundError)
    found = Findings(file)
    fix = "give the path of a COCO-format JSON file" if is_missing else "write the file anew"
    found.error("file missing" if is_missing else "not a COCO file", str(error), fix, is_missing)
    return found.report()


def check_coco_content(
    content: dict,
    name: str,
    image_root: str,
    *,
    num_classes: int | None = None,
    need_masks: bool = True,
    split: str | None = None,
    page: int | None = None,
) -> Report:
    """`check_coco_json` for what `read_coco_json` returns; `name` stands for it in the report."""
    found = Findings(name)
    for what in ("images", "annotations", "categories"):
        _check_ids(content[what], what, found)
    _check_categories(content["categories"], num_classes, found)
    _check_images(content["images"], found)
    paths = _check_image_files(content["images"], image_root, found)
    kinds = _check_kinds(paths, page, found)
    if not content["annotations"]:
        _say_no_annotations(split, found)
    checker = AnnotationChecker(content, found, need_masks, split)
    checker.run()
    _check_use(content, found)
    report = found.report()
    report.summary.append(_summary(content, name, checker))
    if kinds:
        some = f" of {len(paths)} looked at" if len(paths) < len(content["images"]) else ""
        listed = ", ".join(f"{kind} ({count}{some})" for kind, count in kinds.items())
        report.summary.append(f"{name}: images are {listed}")
    valid = [c for c in content["categories"] if is_id(c.get("id"))]
    report.class_names[name] = [str(c.get("name")) for c in sorted(valid, key=itemgetter("id"))]
    report.max_objects[name] = max(checker.num_objects.values(), default=0)
    return report


def _summary(content: dict, name: str, checker: AnnotationChecker) -> str:
    """A dataset in two lines."""
    images, annotations = content["images"], content["annotations"]
    annotated = {a["image_id"] for a in annotations if is_image_id(a.get("image_id"))}
    empty = len(checker.images.keys() - annotated)
    crowds = sum(a.get("iscrowd", 0) == 1 for a in annotations)
    kinds = checker.mask_kinds
    lines = [
        f"{name}: {len(images)} images ({empty} without annotations), "
        f"{len(annotations)} annotations ({crowds} crowds, {kinds['none']} without masks), "
        f"{len(content['categories'])} categories",
        f"    masks of objects: {kinds['polygon']} polygon, {kinds['rle']} RLE, "
        f"{kinds['none']} none",
    ]
    fullest = max(checker.num_objects, key=lambda k: checker.num_objects[k], default=None)
    if fullest is not None:
        most = checker.num_objects[fullest]
        lines[1] += f"; at most {most} objects an image (image {show(fullest)})"
        if most > MAX_OBJECTS:
            lines.append(
                f"    NOTE: Detectron2 keeps, and COCO's metric counts, {MAX_OBJECTS} "
                "an image unless told otherwise; configs/custom takes the number from the files"
            )
    return "\n".join(lines)


def _say_no_annotations(split: str | None, found: Findings) -> None:
    kind, example = "no annotations", "annotations: []"
    if split == "train":
        found.error(kind, example, "name a file with annotations: there is nothing to learn here")
    elif split == "val":
        fix = (
            "name a validation file with annotations: there is nothing to compare with here, and "
            "every AP would be nan. To see what a model finds on images alone, predict them"
        )
        found.error(kind, example, fix)
    else:
        found.warning(kind, example, "none needed for prediction; no training or evaluation on it")


def _check_use(content: dict, found: Findings) -> None:
    """Categories that no annotation has."""
    used = {a["category_id"] for a in content["annotations"] if is_id(a.get("category_id"))}
    unused = [
        str(c.get("name"))
        for c in content["categories"]
        if is_id(c.get("id")) and c["id"] not in used
    ]
    if unused and len(unused) < len(content["categories"]):
        fix = "none needed if that is meant; AP of them will be nan"
        found.warning("category without annotations", shorten(unused), fix)


def _check_ids(entries: list[dict], what: str, found: Findings) -> None:
    """Every entry has an id, and no other has it."""
    ids: set = set()
    is_valid = is_image_id if what == "images" else is_id
    for k, entry in enumerate(entries):
        value = entry.get("id")
        if not is_valid(value):
            fix = "give every entry an 'id' that is a whole number (not a string)"
            found.error(f"bad '{what}' id", f"{what}[{k}]: id {show(value)}", fix)
        elif value in ids:
            fix = "number the entries anew; merged files need it"
            found.error(f"duplicated '{what}' id", f"{what}[{k}]: id {show(value)} again", fix)
        else:
            ids.add(value)
    if len({isinstance(value, str) for value in ids}) == 2:
        example = f"{shorten([show(value) for value in ids], 4)}"
        found.error(f"'{what}' ids of two types", example, "make all numbers or all strings")


def _check_categories(categories: list[dict], num_classes: int | None, found: Findings) -> None:
    if not categories:
        found.error("no categories", "categories: []", "list every class with its 'id' and 'name'")
    for k, category in enumerate(categories):
        if not isinstance(category.get("name"), str) or not category["name"]:
            example = f"categories[{k}]: name {show(category.get('name'))}"
            found.error("category without a name", example, "give it a 'name' that is a string")
    for name, count in Counter(str(c.get("name")) for c in categories).items():
        if count > 1:
            example = f"{show(name)} stands {count} times"
            found.warning("duplicated category name", example, "merge or rename the categories")
    if num_classes is not None and num_classes != len(categories):
        found.error(
            "num_classes disagrees with the categories",
            f"the model has {num_classes} classes, the file {len(categories)}",
            f"set model.roi_heads.num_classes={len(categories)}",
        )


def _check_images(images: list[dict], found: Findings) -> None:
    if not images:
        found.error("no images", "images: []", "list the images")
    names: set[str] = set()
    for k, image in enumerate(images):
        where, name = f"images[{k}] (id {show(image.get('id'))})", image.get("file_name")
        if not isinstance(name, str) or not name:
            fix = "give every image a 'file_name', relative to the image folder"
            found.error("image without a file name", f"{where}: file_name {show(name)}", fix)
        elif name in names:
            fix = "list each image once, with all its annotations"
            found.warning("duplicated file name", f"{where}: {name}", fix)
        else:
            names.add(name)
        height, width = image.get("height"), image.get("width")
        if not (is_side(height) and is_side(width)):
            fix = "give every image its 'height' and 'width' in px, whole numbers above 0"
            found.error(
                "bad image size", f"{where}: height {show(height)}, width {show(width)}", fix
            )


def _check_image_files(images: list[dict], image_root: str, found: Findings) -> list[str]:
    """Every file is there, by one listing per folder; the size of some of them, whose paths are
    returned."""
    if image_root and not os.path.isdir(image_root):
        fix = "give the folder that the file names start from"
        found.error("image folder missing", image_root, fix, is_missing_file=True)
        return []
    by_folder: dict[str, list[dict]] = defaultdict(list)
    for image in images:
        if isinstance(image.get("file_name"), str):
            by_folder[os.path.dirname(image["file_name"])].append(image)
    present: list[dict] = []
    for folder, members in by_folder.items():
        try:
            with os.scandir(os.path.join(image_root, folder) or ".") as listing:
                there = {entry.name for entry in listing if not entry.is_dir()}
        except (OSError, ValueError):  # no folder, or no name of one: too long, a zero byte
            there = set()
        for image in members:
            if os.path.basename(image["file_name"]) in there:
                present.append(image)
            else:
                path = os.path.join(image_root, image["file_name"])
                fix = "put the files there, give another image folder, or correct 'file_name'"
                example = f"image {show(image.get('id'))}: {path}"
                found.error("image file missing", example, fix, is_missing_file=True)
    some = present[:: max(1, math.ceil(len(present) / NUM_SIZES))]
    paths = [os.path.join(image_root, image["file_name"]) for image in some]
    for image, path in zip(some, paths, strict=True):
        _check_image_size(image, path, found)
    return paths


def _check_kinds(paths: list[str], page: int | None, found: Findings) -> dict[str, int]:
    """How many images are of which kind: bits, channels; stacks are refused without a page."""
    kinds = describe_images(paths, sample=NUM_SIZES, page=page)
    if STACK in kinds:
        fix = "say which one with dataloader.page=0, or save each image as a file of its own"
        found.error("files that hold several images", f"{kinds[STACK]} files", fix)
    return {kind: count for kind, count in kinds.items() if kind != "unreadable"}


def _check_image_size(image: dict, path: str, found: Findings) -> None:
    where = f"image {show(image.get('id'))}: {path}"
    try:
        with Image.open(path) as opened:  # reads the header alone
            width, height = opened.size
            # Detectron2 turns images upright before it compares sizes; 5 to 8 swap the sides. Of a
            # TIFF Pillow gives the upright size already.
            orientation = opened.getexif().get(EXIF_ORIENTATION, 1)
            if orientation >= 5 and opened.format != "TIFF":
                width, height = height, width
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
        found.error("image file cannot be read", f"{where}: {error}", "replace the file")
        return
    expected = (image.get("width"), image.get("height"))
    if (width, height) != expected:
        example = f"{where}: width and height are {(width, height)}, the JSON says {expected}"
        fix = "correct 'width' and 'height' (after EXIF rotation), or annotate the resized images"
        found.error("image size disagrees with the file", example, fix)
