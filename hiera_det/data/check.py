"""Finds what is wrong with a dataset before a run.

Most faults of a dataset do not stop Detectron2: instances are dropped without a word, classes are
mixed up, or a worker dies hours into the run. Here each becomes a finding that names the file, the
entry, the value and the fix.

A finding is an error when the run would fail or learn or measure something else than meant. Bad
boxes and polygons are errors only where they are many (`SYSTEMATIC`): COCO itself has a few of
them, which Detectron2 leaves out.
"""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from .coco_json import read_coco_json

__all__ = ["Finding", "Report", "check_coco_json", "check_dataset", "check_train_and_val"]

NUM_EXAMPLES = 5  # printed of each kind
NUM_SIZES = 200  # image files that are opened to compare their size
SYSTEMATIC = 0.01  # share of the annotations from which bad geometry is an error
BOX_TOLERANCE = 2.0  # px outside the image
EXIF_ORIENTATION = 0x0112


@dataclass
class Finding:
    """One kind of fault in one file: how often, the first few places with their values, the fix."""

    file: str
    kind: str
    fix: str
    is_missing_file: bool = False
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < NUM_EXAMPLES:
            self.examples.append(example)

    def __str__(self) -> str:
        more = [f"... and {self.count - len(self.examples)} more"]
        places = self.examples + (more if self.count > len(self.examples) else [])
        lines = [f"{self.file}: {self.kind} ({self.count})", *places, f"fix: {self.fix}"]
        return "\n    ".join(lines)


@dataclass
class Report:
    """What `check_dataset` and its siblings found; printing it gives the text for users.

    errors, warnings: the findings. summary: a line per dataset. class_names: by dataset, in the
    order of the model's outputs.
    """

    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)
    class_names: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = list(self.summary)
        lines += [f"ERROR {finding}" for finding in self.errors]
        lines += [f"WARNING {finding}" for finding in self.warnings]
        lines.append(f"{len(self.errors)} kinds of errors, {len(self.warnings)} of warnings")
        return "\n".join(lines)

    def merge(self, other: "Report") -> None:
        """Appends another report's findings."""
        self.errors += other.errors
        self.warnings += other.warnings
        self.summary += other.summary
        self.class_names |= other.class_names

    def raise_if_errors(self) -> None:
        """
        Raises:
            FileNotFoundError: all that is wrong is that files are missing.
            ValueError: there are other errors. Both carry the whole list.
        """
        if self.errors:
            only_missing = all(finding.is_missing_file for finding in self.errors)
            text = "the dataset cannot be used as it is\n" + "\n".join(map(str, self.errors))
            raise (FileNotFoundError if only_missing else ValueError)(text)


class _Findings:
    """Findings of one file, by kind."""

    def __init__(self, file: str):
        self.file = file
        self.errors: dict[str, Finding] = {}
        self.warnings: dict[str, Finding] = {}

    def error(self, kind: str, example: str, fix: str, is_missing_file: bool = False) -> None:
        self._add(self.errors, kind, example, fix, is_missing_file)

    def warning(self, kind: str, example: str, fix: str) -> None:
        self._add(self.warnings, kind, example, fix, False)

    def _add(self, group: dict, kind: str, example: str, fix: str, missing: bool) -> None:
        if kind not in group:
            group[kind] = Finding(self.file, kind, fix, missing)
        group[kind].add(example)

    def report(self) -> Report:
        return Report(list(self.errors.values()), list(self.warnings.values()))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_image_id(value: Any) -> bool:
    return _is_id(value) or isinstance(value, str)  # strings work throughout


def _check_ids(entries: list[dict], what: str, found: _Findings) -> None:
    """Every entry has an id, and no other has it."""
    ids: set = set()
    is_valid = _is_image_id if what == "images" else _is_id
    for k, entry in enumerate(entries):
        value = entry.get("id")
        if not is_valid(value):
            fix = "give every entry an 'id' that is a whole number (not a string)"
            found.error(f"bad '{what}' id", f"{what}[{k}]: id {value!r}", fix)
        elif value in ids:
            fix = "number the entries anew; merged files need it"
            found.error(f"duplicated '{what}' id", f"{what}[{k}]: id {value} again", fix)
        else:
            ids.add(value)


def _check_categories(categories: list[dict], num_classes: int | None, found: _Findings) -> None:
    if not categories:
        found.error("no categories", "categories: []", "list every class with its 'id' and 'name'")
    for k, category in enumerate(categories):
        if not isinstance(category.get("name"), str):
            example = f"categories[{k}]: name {category.get('name')!r}"
            found.error("category without a name", example, "give it a 'name' that is a string")
    for name, count in Counter(str(c.get("name")) for c in categories).items():
        if count > 1:
            example = f"{name!r} stands {count} times"
            found.warning("duplicated category name", example, "merge or rename the categories")
    if num_classes is not None and num_classes != len(categories):
        found.error(
            "num_classes disagrees with the categories",
            f"the model has {num_classes} classes, the file {len(categories)}",
            f"set model.roi_heads.num_classes={len(categories)}",
        )


def _check_images(images: list[dict], found: _Findings) -> None:
    if not images:
        found.error("no images", "images: []", "list the images")
    names: set[str] = set()
    for k, image in enumerate(images):
        where, name = f"images[{k}] (id {image.get('id')})", image.get("file_name")
        if not isinstance(name, str) or not name:
            fix = "give every image a 'file_name', relative to the image folder"
            found.error("image without a file name", f"{where}: file_name {name!r}", fix)
        elif name in names:
            fix = "list each image once, with all its annotations"
            found.warning("duplicated file name", f"{where}: {name}", fix)
        else:
            names.add(name)
        height, width = image.get("height"), image.get("width")
        if not (_is_id(height) and _is_id(width) and height > 0 and width > 0):
            fix = "give every image its 'height' and 'width' in px, whole numbers above 0"
            found.error("bad image size", f"{where}: height {height!r}, width {width!r}", fix)


def _check_image_files(images: list[dict], image_root: str, found: _Findings) -> None:
    """Every file is there, by one listing per folder; the size of some of them."""
    if image_root and not os.path.isdir(image_root):
        fix = "give the folder that the file names start from"
        found.error("image folder missing", image_root, fix, is_missing_file=True)
        return
    by_folder: dict[str, list[dict]] = defaultdict(list)
    for image in images:
        if isinstance(image.get("file_name"), str):
            by_folder[os.path.dirname(image["file_name"])].append(image)
    present: list[dict] = []
    for folder, members in by_folder.items():
        try:
            with os.scandir(os.path.join(image_root, folder) or ".") as listing:
                there = {entry.name for entry in listing}
        except (FileNotFoundError, NotADirectoryError):
            there = set()
        for image in members:
            if os.path.basename(image["file_name"]) in there:
                present.append(image)
            else:
                path = os.path.join(image_root, image["file_name"])
                fix = "put the files there, give another image folder, or correct 'file_name'"
                example = f"image {image.get('id')}: {path}"
                found.error("image file missing", example, fix, is_missing_file=True)
    for image in present[:: max(1, math.ceil(len(present) / NUM_SIZES))]:
        _check_image_size(image, os.path.join(image_root, image["file_name"]), found)


def _check_image_size(image: dict, path: str, found: _Findings) -> None:
    where = f"image {image.get('id')}: {path}"
    try:
        with Image.open(path) as opened:  # reads the header alone
            width, height = opened.size
            # Detectron2 turns images upright before it compares sizes; 5 to 8 swap the sides.
            if opened.getexif().get(EXIF_ORIENTATION, 1) >= 5:
                width, height = height, width
    except OSError as error:
        found.error("image file cannot be read", f"{where}: {error}", "replace the file")
        return
    expected = (image.get("width"), image.get("height"))
    if (width, height) != expected:
        example = f"{where}: width and height are {(width, height)}, the JSON says {expected}"
        fix = "correct 'width' and 'height' (after EXIF rotation), or annotate the resized images"
        found.error("image size disagrees with the file", example, fix)


class _AnnotationChecker:
    """Checks annotations one by one, and counts what is judged by its share at the end."""

    def __init__(self, content: dict, found: _Findings, need_masks: bool, split: str | None):
        self.annotations: list[dict] = content["annotations"]
        self.images = {i["id"]: i for i in content["images"] if _is_image_id(i.get("id"))}
        self.category_ids = {c["id"] for c in content["categories"] if _is_id(c.get("id"))}
        self.found, self.need_masks, self.split = found, need_masks, split
        self.bad_geometry = _Findings(found.file)
        self.without_mask = 0

    def run(self) -> None:
        for k, annotation in enumerate(self.annotations):
            image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
            where = f"annotations[{k}] (id {annotation.get('id')}, image {image_id!r})"
            image = self.images.get(image_id) if _is_image_id(image_id) else None
            if image is None:
                fix = "list the image or drop the annotation; as an id, 1 is not '1'"
                self.found.error("image_id of no image", f"{where}: image_id {image_id!r}", fix)
            if not _is_id(category_id) or category_id not in self.category_ids:
                fix = f"use an id from 'categories': {_shorten(sorted(self.category_ids))}"
                example = f"{where}: category_id {category_id!r}"
                self.found.error("category_id of no category", example, fix)
            self._check_keys(annotation, where)
            self._check_box(annotation.get("bbox"), image, where)
            self._check_segmentation(annotation, image, where)
        self._judge()

    def _check_keys(self, annotation: dict, where: str) -> None:
        if "ignore" in annotation:
            fix = "remove the key; regions to ignore are iscrowd=1 annotations with an RLE"
            self.found.error("'ignore' is not supported by Detectron2", where, fix)
        if annotation.get("iscrowd", 0) not in (0, 1):
            example = f"{where}: iscrowd {annotation['iscrowd']!r}"
            self.found.error("bad 'iscrowd'", example, "set it to 0 or 1")
        if self.split == "train":
            return
        report = self.found.error if self.split == "val" else self.found.warning
        for key in ("area", "iscrowd"):
            if not _is_number(annotation.get(key)):
                example = f"{where}: {key} {annotation.get(key)!r}"
                fix = f"COCO's evaluation needs '{key}' in every annotation"
                report(f"no '{key}', needed for evaluation", example, fix)
        if annotation.get("id") == 0:
            fix = "start annotation ids at 1: COCO's evaluation takes 0 for 'no match'"
            report("annotation id 0 counts as missed in evaluation", where, fix)

    def _check_box(self, box: Any, image: dict | None, where: str) -> None:
        if not (isinstance(box, (list, tuple)) and len(box) == 4 and all(map(_is_number, box))):
            fix = "give 'bbox' as 4 finite numbers: [x, y, width, height] in px"
            self.found.error("bad 'bbox'", f"{where}: {box!r:.80}", fix)
            return
        x, y, width, height = box
        if width <= 0 or height <= 0:
            fix = "remove the annotation, or recompute 'bbox' from the mask"
            self.bad_geometry.error("box of no size", f"{where}: bbox {box}", fix)
        if image is None or not (_is_id(image.get("width")) and _is_id(image.get("height"))):
            return
        right, bottom = image["width"] + BOX_TOLERANCE, image["height"] + BOX_TOLERANCE
        if min(x, y) < -BOX_TOLERANCE or x + width > right or y + height > bottom:
            size = f"{image['width']}x{image['height']}"
            fix = "'bbox' is [x, y, width, height] in px; not corners, and not shares of the image"
            example = f"{where}: bbox {box} in an image of {size}"
            self.bad_geometry.error("box outside the image", example, fix)

    def _check_segmentation(self, annotation: dict, image: dict | None, where: str) -> None:
        is_crowd = annotation.get("iscrowd", 0) == 1
        segmentation = annotation.get("segmentation")
        if segmentation is None:
            # Detectron2 leaves crowds out of training.
            self.without_mask += not is_crowd
            if self.need_masks and not is_crowd:
                fix = (
                    "annotate the masks, or turn them off: model.roi_heads.mask_in_features=null "
                    "and use_instance_mask and recompute_boxes False in dataloader.train.mapper"
                )
                self.found.error("object without a mask", where, fix)
        elif isinstance(segmentation, dict):
            self._check_rle(segmentation, image, where)
            if not is_crowd and self.need_masks and self.split != "val":
                report = self.found.error if self.split == "train" else self.found.warning
                fix = "write polygons, or set dataloader.train.mapper.instance_mask_format=bitmask"
                report("RLE mask of a single object", where, fix)
        elif isinstance(segmentation, list) and not segmentation:
            fix = "write the mask, remove the annotation or, for box-only data, this key"
            kind = "empty 'segmentation': Detectron2 drops the instance without a word"
            self.found.error(kind, f"{where}: segmentation []", fix)
        elif isinstance(segmentation, list):
            self._check_polygons(segmentation, where)
        else:
            fix = "give a list of polygons [[x, y, x, y, ...], ...] or an RLE object"
            self.found.error("bad 'segmentation'", f"{where}: {segmentation!r:.80}", fix)

    def _check_polygons(self, polygons: list, where: str) -> None:
        num_good = 0
        for polygon in polygons:
            try:
                # The sum is finite only if all are, and runs at C's speed over millions of numbers.
                is_finite = math.isfinite(sum(polygon))
            except TypeError:
                fix = "'segmentation' is a list of polygons, each a flat list [x, y, x, y, ...]"
                self.found.error("bad polygon", f"{where}: {polygon!r:.80}", fix)
                return
            if not is_finite:
                fix = "remove NaN and Infinity"
                self.found.error("polygon with a number that is not finite", where, fix)
            num_good += len(polygon) >= 6 and len(polygon) % 2 == 0
        if num_good < len(polygons):
            example = f"{where}: {len(polygons) - num_good} of {len(polygons)} polygons"
            fix = "a polygon has 3 points or more, as an even number of coordinates"
            self.bad_geometry.error("polygon without 3 whole points", example, fix)

    def _check_rle(self, rle: dict, image: dict | None, where: str) -> None:
        size, counts = rle.get("size"), rle.get("counts")
        if not isinstance(size, (list, tuple)) or not isinstance(counts, (list, str, bytes)):
            fix = "an RLE is {'size': [height, width], 'counts': [...] or a string}"
            self.found.error("bad RLE", f"{where}: {rle!r:.80}", fix)
            return
        expected = list(size) if image is None else [image.get("height"), image.get("width")]
        if list(size) != expected:
            example = f"{where}: size {list(size)}, image {expected}"
            self.found.error("RLE of another size than its image", example, "encode the mask anew")
        elif isinstance(counts, list) and sum(counts) != math.prod(size):
            example = f"{where}: counts add up to {sum(counts)}, {size} is {math.prod(size)}"
            self.found.error("bad RLE", example, "encode the mask anew")

    def _judge(self) -> None:
        """Bad geometry becomes errors where it is systematic, else warnings."""
        for kind, finding in self.bad_geometry.errors.items():
            is_systematic = finding.count > SYSTEMATIC * len(self.annotations)
            group = self.found.errors if is_systematic else self.found.warnings
            group[kind] = finding


def _shorten(values: Sequence, num: int = 10) -> str:
    more = f", ... ({len(values)})" if len(values) > num else ""
    return ", ".join(map(str, values[:num])) + more


def _check_content(
    content: dict,
    file: str,
    image_root: str,
    num_classes: int | None,
    need_masks: bool,
    split: str | None,
) -> Report:
    found = _Findings(file)
    images, annotations = content["images"], content["annotations"]
    for what in ("images", "annotations", "categories"):
        _check_ids(content[what], what, found)
    _check_categories(content["categories"], num_classes, found)
    _check_images(images, found)
    _check_image_files(images, image_root, found)
    checker = _AnnotationChecker(content, found, need_masks, split)
    checker.run()
    used = Counter(a.get("category_id") for a in annotations if _is_id(a.get("category_id")))
    unused = [str(c.get("name")) for c in content["categories"] if c.get("id") not in used]
    if unused and len(unused) < len(content["categories"]):
        example, fix = _shorten(unused), "none needed if that is meant; AP of them will be nan"
        found.warning("category without annotations", example, fix)
    if not annotations:
        found.error("no annotations", "annotations: []", "is it a file for testing only?")
    annotated = {a["image_id"] for a in annotations if _is_image_id(a.get("image_id"))}
    empty = len(checker.images.keys() - annotated)
    crowds = sum(a.get("iscrowd", 0) == 1 for a in annotations)
    report = found.report()
    report.summary.append(
        f"{file}: {len(images)} images ({empty} without annotations), "
        f"{len(annotations)} annotations ({crowds} crowds, {checker.without_mask} without masks), "
        f"{len(content['categories'])} categories"
    )
    valid = [c for c in content["categories"] if _is_id(c.get("id"))]
    report.class_names[file] = [str(c.get("name")) for c in sorted(valid, key=itemgetter("id"))]
    return report


def _failure(file: str, error: Exception) -> Report:
    """The report on a file that cannot even be read."""
    is_missing = isinstance(error, FileNotFoundError)
    found = _Findings(file)
    fix = "give the path of a COCO-format JSON file" if is_missing else "write the file anew"
    found.error("file missing" if is_missing else "not a COCO file", str(error), fix, is_missing)
    return found.report()


def check_coco_json(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    num_classes: int | None = None,
    need_masks: bool = True,
    split: str | None = None,
) -> Report:
    """Checks a COCO-format dataset; the file is parsed once.

    Args:
        json_file: the annotations.
        image_root: the folder that the file names start from.
        num_classes: of the model, if they are to agree.
        need_masks: whether every object needs a mask.
        split: "train" or "val", for what only training or only evaluation needs; None reports
            both as warnings.

    Returns:
        What was found; call its ``raise_if_errors``. Nothing is raised for a bad dataset here.

    Raises:
        ValueError: an unknown `split`.
    """
    _check_split(split)
    try:
        content = read_coco_json(json_file)
    except (FileNotFoundError, ValueError) as error:
        return _failure(str(json_file), error)
    return _check_content(content, str(json_file), str(image_root), num_classes, need_masks, split)


def _check_split(split: str | None) -> None:
    if split not in (None, "train", "val"):
        raise ValueError(f'split={split!r} is none of None, "train", "val"')


def _as_coco(dicts: Sequence[dict], class_names: Sequence[str] | None) -> dict:
    """Detectron2's dataset dicts as the content of a COCO file, so that one checker serves both."""
    annotations = []
    for k, record in enumerate(dicts):
        for annotation in record.get("annotations", ()):
            box = annotation.get("bbox")
            if box is not None and "bbox_mode" in annotation:
                box = BoxMode.convert(list(box), annotation["bbox_mode"], BoxMode.XYWH_ABS)
            # Evaluation makes these two itself for datasets without a JSON.
            annotations.append({"area": 1, "iscrowd": 0, **annotation, "bbox": box, "image_id": k})
    for k, annotation in enumerate(annotations, 1):
        annotation["id"] = k
    used = [a["category_id"] for a in annotations if _is_id(a.get("category_id"))]
    names = class_names or [f"class {k}" for k in range(max(used, default=-1) + 1)]
    return {
        "images": [{**record, "id": k} for k, record in enumerate(dicts)],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
    }


def check_dataset(
    name_or_dicts: str | Sequence[dict],
    *,
    num_classes: int | None = None,
    need_masks: bool = True,
    split: str | None = None,
) -> Report:
    """Checks a registered dataset, or a list of Detectron2's dataset dicts.

    A dataset that was registered with a JSON is checked by that file: Detectron2's own loader drops
    bad entries before anyone sees them. One that makes its files on first use makes them now.

    For the arguments and the result see `check_coco_json`. An image of a list of dicts is named by
    its index.

    Raises:
        ValueError: an unknown name or `split`.
    """
    _check_split(split)
    name = name_or_dicts if isinstance(name_or_dicts, str) else None
    if name is None:
        content = _as_coco(name_or_dicts, None)
        return _check_content(content, "dataset dicts", "", num_classes, need_masks, split)
    json_file = _json_file(name)
    if json_file is None:
        content = _as_coco(DatasetCatalog.get(name), MetadataCatalog.get(name).get("thing_classes"))
        return _check_content(content, name, "", num_classes, need_masks, split)
    image_root = MetadataCatalog.get(name).get("image_root", "")
    return check_coco_json(
        json_file, image_root, num_classes=num_classes, need_masks=need_masks, split=split
    )


def _json_file(name: str) -> str | None:
    """The annotation file of a registered dataset, or None where it has none."""
    if name not in DatasetCatalog:
        known = _shorten(sorted(DatasetCatalog.list()), 30)
        raise ValueError(f"no dataset {name!r} is registered; there are {known}")
    json_file = MetadataCatalog.get(name).get("json_file")
    if json_file is not None and not Path(json_file).is_file():
        try:
            DatasetCatalog.get(name)  # may make it
        except FileNotFoundError:
            pass  # reported with the path by the check
    return json_file


def check_train_and_val(
    train_names: str | Sequence[str],
    val_names: str | Sequence[str],
    num_classes: int | None = None,
    need_masks: bool = True,
) -> Report:
    """Checks the registered datasets of a run, and that they agree on the classes.

    Detectron2 numbers classes by rising category id within each file. Where the files of a run
    differ in that, the loss looks healthy and the AP is that of other classes.

    Args:
        train_names, val_names: registered names, ``dataloader.{train,test}.dataset.names``.
        num_classes: of the model, if they are to agree.
        need_masks: whether every object needs a mask.

    Returns:
        What was found; call its ``raise_if_errors``.

    Raises:
        ValueError: an unknown name.
    """
    report = Report()
    for split, names in (("train", train_names), ("val", val_names)):
        for name in [names] if isinstance(names, str) else names:
            report.merge(
                check_dataset(name, num_classes=num_classes, need_masks=need_masks, split=split)
            )
    (first, expected), *others = report.class_names.items() or [("", [])]
    for name, names in others:
        if names != expected:
            found = _Findings(name)
            fix = "give all files of the run the same categories, with ids in the same order"
            found.error(f"its classes are not those of {first}", _difference(expected, names), fix)
            report.merge(found.report())
    return report


def _difference(expected: Sequence[str], found: Sequence[str]) -> str:
    k = next((k for k, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), None)
    if k is None:
        return f"{len(expected)} and {len(found)} classes"
    return f"class {k} is {expected[k]!r} in the first and {found[k]!r} here"
