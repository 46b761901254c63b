"""Rules on COCO annotations: ids, boxes, polygons, RLE masks."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeGuard

from .findings import Findings, show
from .rle import rle_runs

__all__ = ["AnnotationChecker", "is_id", "is_image_id", "shorten"]

SYSTEMATIC = 0.01  # share of the annotations from which bad geometry is an error
TOLERANCE = 2.0  # px outside the image
MAX_COORDINATE = 1e6  # px; far from any image, and rasterising a polygon there takes the memory
SHARE = 1.5  # a box or mask with no larger coordinate was written in shares of the image
BOXES_ALONE = (
    "train boxes alone with --config-file custom/coco_json_boxes.py (your JSON) or "
    "COCO/faster_rcnn_hiera_b.py"
)


def is_id(value: Any) -> bool:
    """Whether it is a whole number, 1.0 as well: Python and COCO's tools take it for 1."""
    if isinstance(value, float):
        return value.is_integer() and abs(value) < 2**53
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_image_id(value: Any) -> bool:
    return is_id(value) or isinstance(value, str)  # strings work throughout


def is_number(value: Any) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= MAX_COORDINATE  # False for NaN


def shorten(values: Sequence, num: int = 10) -> str:
    more = f", ... ({len(values)})" if len(values) > num else ""
    return ", ".join(map(str, values[:num])) + more


class AnnotationChecker:
    """Checks annotations one by one, and counts what is judged by its share at the end.

    Args:
        content: the three lists of a COCO file.
        found: gets the findings.
        need_masks: whether every object needs a mask.
        split: "train", "val" or None, see `check_coco_json`.

    Attributes:
        images: by id, those that an annotation can name.
        mask_kinds: objects with "polygon", "rle" and "none"; crowds do not count.
        num_objects: by image id; crowds do not count.
    """

    def __init__(self, content: dict, found: Findings, need_masks: bool, split: str | None):
        self.annotations: list[dict] = content["annotations"]
        self.images = {i["id"]: i for i in content["images"] if is_image_id(i.get("id"))}
        self.category_ids = {c["id"] for c in content["categories"] if is_id(c.get("id"))}
        self.found, self.need_masks, self.split = found, need_masks, split
        self.bad_geometry = Findings(found.file)
        self.mask_kinds: Counter = Counter()
        self.num_objects: Counter = Counter()
        self.index = 0

    def run(self) -> None:
        for index, annotation in enumerate(self.annotations):
            self.index = index
            image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
            image = self.images.get(image_id) if is_image_id(image_id) else None
            if image is None:
                fix = "list the image or drop the annotation; as an id, 1 is not '1'"
                example = f"{self.where}: image_id {show(image_id)}"
                self.found.error("image_id of no image", example, fix)
            if not is_id(category_id) or category_id not in self.category_ids:
                fix = f"use an id from 'categories': {shorten(sorted(self.category_ids))}"
                example = f"{self.where}: category_id {show(category_id)}"
                self.found.error("category_id of no category", example, fix)
            self._check_keys(annotation)
            box = self._check_box(annotation.get("bbox"), image)
            is_crowd = annotation.get("iscrowd", 0) == 1
            if image is not None:
                self.num_objects[image_id] += not is_crowd
            self._check_segmentation(annotation, is_crowd, box, image)
        self._judge()

    @property
    def where(self) -> str:
        """The place of the annotation that is looked at; made for findings alone."""
        entry = self.annotations[self.index]
        ids = f"id {show(entry.get('id'))}, image {show(entry.get('image_id'))}"
        return f"annotations[{self.index}] ({ids})"

    def _check_keys(self, annotation: dict) -> None:
        if annotation.get("ignore", 0) != 0:
            fix = "remove the key; regions to ignore are iscrowd=1 annotations with an RLE"
            example = f"{self.where}: ignore {show(annotation['ignore'])}"
            self.found.error("'ignore' is not supported by Detectron2", example, fix)
        if annotation.get("iscrowd", 0) not in (0, 1):
            example = f"{self.where}: iscrowd {show(annotation['iscrowd'])}"
            fix = "set it to 0 or 1; all but 0 is left out of training"
            self.found.error("bad 'iscrowd'", example, fix)
        keypoints = annotation.get("keypoints")
        is_list = isinstance(keypoints, list) and all(map(is_number, keypoints))
        if not (keypoints is None or is_list or hasattr(keypoints, "shape")):
            example = f"{self.where}: keypoints {show(keypoints)}"
            fix = "remove the key, which nothing here uses; Detectron2's loader reads it"
            self.found.error("bad 'keypoints'", example, fix)
        if self.split == "train":
            return
        area = annotation.get("area")
        is_area = isinstance(area, (int, float)) and not isinstance(area, bool) and area >= 0
        if not is_area or area == math.inf:
            fix = "none needed here: the area of the mask, or else of the box, is taken"
            example = f"{self.where}: area {show(area)}"
            self.found.warning("no 'area', by which COCO's evaluation sorts objects", example, fix)
        if "iscrowd" not in annotation:
            fix = "none needed here: 0 is taken"
            self.found.warning("no 'iscrowd', which COCO's evaluation reads", self.where, fix)
        if annotation.get("id") == 0:
            fix = "none needed here: annotations are numbered anew. COCO's own takes 0 for no match"
            self.found.warning("annotation id 0", self.where, fix)

    def _check_box(self, box: Any, image: dict | None) -> Sequence[float] | None:
        """The box, if it can be compared with a mask."""
        if not (isinstance(box, (list, tuple)) and len(box) == 4 and all(map(is_number, box))):
            fix = "give 'bbox' as 4 finite numbers: [x, y, width, height] in px"
            self.found.error("bad 'bbox'", f"{self.where}: {show(box)}", fix)
            return None
        x, y, width, height = box
        if width <= 0 or height <= 0:
            fix = "remove the annotation, or recompute 'bbox' from the mask"
            self.bad_geometry.error("box of no size", f"{self.where}: bbox {box}", fix)
            return None
        if not _has_size(image):
            return None
        size = f"{image['width']}x{image['height']}"
        if max(box) <= SHARE and min(image["width"], image["height"]) > 2 * SHARE:
            fix = "write 'bbox' in px: multiply by the width and height of the image"
            example = f"{self.where}: bbox {box} in an image of {size}"
            self.bad_geometry.error("box in shares of 1", example, fix)
            return None
        right, bottom = image["width"] + TOLERANCE, image["height"] + TOLERANCE
        if min(x, y) < -TOLERANCE or x + width > right or y + height > bottom:
            fix = "'bbox' is [x, y, width, height] in px; not corners, and not shares of the image"
            example = f"{self.where}: bbox {box} in an image of {size}"
            self.bad_geometry.error("box outside the image", example, fix)
        return box

    def _check_segmentation(
        self,
        annotation: dict,
        is_crowd: bool,
        box: Sequence[float] | None,
        image: dict | None,
    ) -> None:
        segmentation = annotation.get("segmentation")
        if segmentation is None or segmentation == []:
            # Detectron2 leaves crowds out of training.
            self.mask_kinds["none"] += not is_crowd
            if self.need_masks and is_crowd and self.split != "train":
                fix = "write its mask as an RLE: evaluation ignores what is found there"
                report = self.found.error if self.split == "val" else self.found.warning
                report("crowd without a mask, which the evaluation of masks needs", self.where, fix)
            if self.need_masks and not is_crowd:
                value = "no 'segmentation'" if segmentation is None else "segmentation []"
                fix = f"annotate the masks, or {BOXES_ALONE}"
                self.found.error("object without a mask", f"{self.where}: {value}", fix)
        elif isinstance(segmentation, dict):
            self.mask_kinds["rle"] += not is_crowd
            self._check_rle(segmentation, image)
        elif isinstance(segmentation, list):
            self.mask_kinds["polygon"] += not is_crowd
            self._check_polygons(segmentation, box, image)
        else:
            fix = "give a list of polygons [[x, y, x, y, ...], ...] or an RLE object"
            self.found.error("bad 'segmentation'", f"{self.where}: {show(segmentation)}", fix)

    def _check_polygons(
        self, polygons: list, box: Sequence[float] | None, image: dict | None
    ) -> None:
        good = []
        for polygon in polygons:
            try:
                # The sum is finite only if all are, and runs at C's speed over millions of numbers.
                is_finite = math.isfinite(sum(polygon))
                is_usable = isinstance(polygon, (list, tuple)) or hasattr(polygon, "shape")
            except (TypeError, ValueError, OverflowError):
                is_usable = False
            if not is_usable:
                fix = "'segmentation' is a list of polygons, each a flat list [x, y, x, y, ...]"
                self.found.error("bad polygon", f"{self.where}: {show(polygon)}", fix)
                return
            if not is_finite:
                fix = "remove NaN and Infinity"
                kind = "polygon with a number that is not finite"
                self.found.error(kind, f"{self.where}: {show(polygon)}", fix)
                return
            if len(polygon) >= 6 and len(polygon) % 2 == 0:
                good.append(polygon)
        if len(good) < len(polygons):
            example = f"{self.where}: {len(polygons) - len(good)} of {len(polygons)} polygons"
            fix = "a polygon has 3 points or more, as an even number of coordinates"
            self.bad_geometry.error("polygon without 3 whole points", example, fix)
        if good:
            self._check_extent(good, box, image)

    def _check_extent(
        self, polygons: list, box: Sequence[float] | None, image: dict | None
    ) -> None:
        """Where the mask lies: in the image, and where the box lies."""
        first, *others = polygons
        xs = first[0::2] if not others else [x for p in polygons for x in p[0::2]]
        ys = first[1::2] if not others else [y for p in polygons for y in p[1::2]]
        x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
        if max(-x0, x1, -y0, y1) > MAX_COORDINATE:
            fix = "write the polygons in px of the image: x, y, x, y, ..."
            self.found.error("polygon far from any image", self._extent(x0, y0, x1, y1), fix)
            return
        if x1 <= x0 or y1 <= y0:
            fix = "remove the annotation, or draw the mask anew: training leaves the object out"
            self.bad_geometry.error("mask of no size", self._extent(x0, y0, x1, y1), fix)
            return
        if _has_size(image):
            right, bottom = image["width"] + TOLERANCE, image["height"] + TOLERANCE
            if min(x0, y0) < -TOLERANCE or x1 > right or y1 > bottom:
                extent = self._extent(x0, y0, x1, y1)
                example = f"{extent} in an image of {image['width']}x{image['height']}"
                fix = "write the polygons in px of the image: x, y, x, y, ..."
                self.bad_geometry.error("mask outside the image", example, fix)
                return
        if box is not None:
            x, y, width, height = box
            gap = max(x0 - x - width, x - x1, y0 - y - height, y - y1)
            if gap > TOLERANCE:
                fix = "write both in px of the image; training takes the box of the mask"
                example = f"{self._extent(x0, y0, x1, y1)}, bbox {box}"
                self.bad_geometry.error("box and mask do not meet", example, fix)

    def _extent(self, x0: float, y0: float, x1: float, y1: float) -> str:
        return f"{self.where}: polygons from ({x0}, {y0}) to ({x1}, {y1})"

    def _check_rle(self, rle: dict, image: dict | None) -> None:
        try:
            runs = rle_runs(rle)
        except ValueError as error:
            example = f"{self.where}: {error}: {show(rle)}"
            self.found.error("bad RLE", example, "encode the mask anew, with pycocotools.mask")
            return
        if image is not None:
            expected = [image.get("height"), image.get("width")]
            if list(rle["size"]) != expected:
                example = f"{self.where}: size {list(rle['size'])}, image {expected}"
                fix = "encode the mask anew, in the height and width of its image"
                self.found.error("RLE of another size than its image", example, fix)
                return
        if not runs[1::2].any():
            fix = "remove the annotation, or draw the mask anew: training leaves the object out"
            self.bad_geometry.error("mask of no size", f"{self.where}: no pixel is set", fix)

    def _judge(self) -> None:
        """Bad geometry becomes errors where it is systematic, else warnings."""
        for kind, finding in self.bad_geometry.errors.items():
            is_systematic = finding.count > SYSTEMATIC * len(self.annotations)
            group = self.found.errors if is_systematic else self.found.warnings
            group[kind] = finding


def _has_size(image: dict | None) -> TypeGuard[dict]:
    return image is not None and is_side(image.get("width")) and is_side(image.get("height"))


def is_side(value: Any) -> bool:
    """Whether it is a width or height that Detectron2 takes: whole, as an int, above 0."""
    return type(value) is int and 0 < value <= MAX_COORDINATE
