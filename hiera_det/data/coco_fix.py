"""Repair of a COCO-format dataset: what can be mended is, what cannot is left out, and all is told.

The result passes `check_coco_content`. What only its author can know (two classes with one id,
boxes that are corners) is refused.
"""

import copy
import math
import os
from collections import Counter
from typing import Any, TypeGuard

import pycocotools.mask as mask_util

from .changes import Changes
from .coco_annotations import (
    SHARE,
    SYSTEMATIC,
    TOLERANCE,
    is_id,
    is_image_id,
    is_number,
    is_side,
)
from .coco_check import check_coco_content
from .coco_json import read_coco_json, refuse_existing, write_coco_json
from .findings import show
from .images import StackError, upright_size
from .polygons import clip_polygon, polygon_area, polygons_box
from .progress import progress
from .rle import as_rle, rle_runs

__all__ = ["fix_coco_content", "fix_coco_json"]

SLACK = 0.01  # px outside the image that rounding explains
MANY = 0.5  # share of the boxes outside their images from which they are taken for corners


def fix_coco_content(
    content: dict[str, Any],
    image_root: str | os.PathLike,
    *,
    need_masks: bool = True,
    page: int | None = None,
    name: str = "the file",
) -> tuple[dict[str, Any], Changes]:
    """A COCO-format dataset whose faults are repaired or left out.

    Args:
        content: what `read_coco_json` returns; it is not changed.
        image_root: the folder that the file names start from.
        need_masks: leave out objects without a mask.
        page: of image files that hold several, which one is meant; None leaves them out.
        name: stands for the content in errors.

    Returns:
        The repaired content, which passes `check_coco_content`, and what was changed.

    Raises:
        ValueError: it cannot be repaired; says why.
    """
    changes = Changes()
    content = copy.deepcopy({key: value for key, value in content.items()})
    categories = _fix_categories(content["categories"], changes)
    images, same = _fix_images(content["images"], str(image_root), page, changes)
    fixer = _AnnotationFixer(images, same, categories, need_masks, changes)
    annotations = fixer.run(content["annotations"])
    _number(annotations, changes)
    content |= {"images": images, "annotations": annotations, "categories": categories}
    if not annotations:
        masks = "; --boxes-only keeps objects without masks" if need_masks else ""
        raise ValueError(
            f"{name} cannot be repaired: no annotation is left{masks}\n{changes}".rstrip()
        )
    report = check_coco_content(content, name, str(image_root), need_masks=need_masks, page=page)
    if report.errors:
        listed = "\n".join(map(str, report.errors))
        raise ValueError(f"{name} cannot be repaired as a whole. What is left:\n{listed}")
    return content, changes


def fix_coco_json(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    output: str | os.PathLike,
    *,
    need_masks: bool = True,
) -> str:
    """`fix_coco_content` from file to file.

    Returns:
        What was changed, for people.

    Raises:
        FileExistsError: there is an `output` already.
        FileNotFoundError, ValueError: see `read_coco_json` and `fix_coco_content`.
    """
    refuse_existing(output)  # before minutes of reading
    content = read_coco_json(json_file)
    if not os.path.isdir(image_root):
        raise FileNotFoundError(f"{image_root}: no such folder; give the folder with the images")
    fixed, changes = fix_coco_content(
        content, image_root, need_masks=need_masks, name=str(json_file)
    )
    write_coco_json(output, fixed)
    kept = [
        f"{len(fixed[key])} of {len(content[key])} {key}"
        for key in ("images", "annotations", "categories")
    ]
    return "\n".join([str(changes) or "nothing to repair", f"{output}: {', '.join(kept)}"])


# ------------------------------------------------------------------------------------ categories
def _fix_categories(categories: list[dict], changes: Changes) -> list[dict]:
    kept: dict[int, dict] = {}
    for k, category in enumerate(categories):
        where = f"categories[{k}]"
        number = _whole(category.get("id"))
        if number is None:
            example = f"{where}: id {show(category.get('id'))}"
            changes.add("category without a usable id", "left out", example)
            continue
        if type(category["id"]) is not int:
            changes.add("category id that is no whole number", "made one", f"{where}: {number}")
        category["id"] = number
        if not isinstance(category.get("name"), str) or not category["name"]:
            category["name"] = f"class {number}"
            changes.add("category without a name", "named by its id", f"{where}: class {number}")
        other = kept.get(number)
        if other is not None and other["name"] != category["name"]:
            raise ValueError(
                f"{where}: the categories {show(other['name'])} and {show(category['name'])} have "
                f"one id, {number}, so nobody can tell whose the annotations are; number them anew "
                "in the program that wrote the file"
            )
        if other is not None:
            changes.add("category that stands twice", "left out", f"{where}: id {number}")
            continue
        kept[number] = category
    if not kept:
        raise ValueError("there is no category with an id; list every class with 'id' and 'name'")
    return list(kept.values())


def _whole(value: Any) -> int | None:
    """An id as a whole number: 4, 4.0 and "4" are 4."""
    if is_id(value):
        return int(value)
    is_digits = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19
    return int(value) if is_digits else None


# ---------------------------------------------------------------------------------------- images
def _fix_images(
    images: list[dict], image_root: str, page: int | None, changes: Changes
) -> tuple[list[dict], dict]:
    """The images that can be used, and by every id of the file the image that it means."""
    ids = Counter(i["id"] for i in images if is_image_id(i.get("id")))
    files: dict[Any, set] = {}
    for image in images:
        if is_image_id(image.get("id")):
            files.setdefault(image["id"], set()).add(show(image.get("file_name")))
    by_name: dict[str, dict] = {}
    same: dict[Any, dict] = {}
    kept = []
    for k, image in enumerate(progress(images, "images")):
        where, number = f"images[{k}] (id {show(image.get('id'))})", image.get("id")
        if not is_image_id(number):
            changes.add("image without a usable id", "left out", where)
        elif ids[number] > 1 and len(files[number]) > 1:
            what = "images that share an id"
            changes.add(
                what, "left out with their annotations", f"{where}: {sorted(files[number])}"
            )
        elif number in same:
            changes.add("image that stands twice", "left out", where)
        elif not _fix_image(image, image_root, page, where, changes):
            pass
        elif image["file_name"] in by_name:
            same[number] = by_name[image["file_name"]]
            changes.add("file name that stands twice", "made one image", image["file_name"])
        else:
            same[number] = by_name[image["file_name"]] = image
            kept.append(image)
    if not kept:
        raise ValueError(f"none of the {len(images)} images can be used\n{changes}".rstrip())
    if not all(type(i["id"]) is int for i in kept) and not all(type(i["id"]) is str for i in kept):
        for number, image in enumerate(kept, 1):
            image["id"] = number
        changes.add("image ids of several types", "numbered anew", count=len(kept))
    return kept, same


def _fix_image(
    image: dict, image_root: str, page: int | None, where: str, changes: Changes
) -> bool:
    """Whether the image can be used, its size made right."""
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        changes.add("image without a file name", "left out", where)
        return False
    path = os.path.join(image_root, name)
    if not os.path.isfile(path):
        changes.add("image file missing", "left out", f"{where}: {path}")
        return False
    try:
        width, height = upright_size(path, page)
    except StackError as error:
        changes.add("file of several images", "left out", str(error))
        return False
    except (OSError, ValueError) as error:
        changes.add("image file that cannot be read", "left out", str(error))
        return False
    said = (image.get("width"), image.get("height"))
    if not all(map(is_side, said)):
        changes.add("bad image size", "taken from the file", f"{where}: {show(said)}")
        image["width"], image["height"] = width, height
    elif said != (width, height):
        # Whether the annotations are in the size of the JSON or of the file, nobody can tell.
        example = f"{where}: {said} in the JSON, {(width, height)} in {path}"
        changes.add("image size that disagrees with the file", "left out", example)
        return False
    return True


# ----------------------------------------------------------------------------------- annotations
class _AnnotationFixer:
    """Repairs annotations one by one; `run` returns those that are left."""

    def __init__(
        self,
        images: list[dict],
        same: dict,
        categories: list[dict],
        need_masks: bool,
        changes: Changes,
    ):
        self.images, self.same, self.need_masks, self.changes = images, same, need_masks, changes
        self.categories = {category["id"] for category in categories}
        self.in_shares = False  # whether boxes were written in shares of 1 throughout
        self.where = ""

    def run(self, annotations: list[dict]) -> list[dict]:
        self._look_at_boxes(annotations)
        kept = []
        for k, annotation in enumerate(annotations):
            ids = f"id {show(annotation.get('id'))}, image {show(annotation.get('image_id'))}"
            self.where = f"annotations[{k}] ({ids})"
            if self._fix(annotation):
                kept.append(annotation)
        return kept

    def _say(self, what: str, done: str, value: Any = None) -> None:
        self.changes.add(what, done, f"{self.where}: {show(value)}" if value else self.where)

    def _image(self, annotation: dict) -> dict | None:
        number = annotation.get("image_id")
        if not is_image_id(number):
            return None
        if number not in self.same and _whole(number) is not None:
            return self.same.get(_whole(number))
        return self.same.get(number)

    def _look_at_boxes(self, annotations: list[dict]) -> None:
        """Raises ValueError where boxes are corners; notes whether they are shares of 1."""
        outside = shares = total = 0
        for annotation in annotations:
            box, image = annotation.get("bbox"), self._image(annotation)
            if image is None or not _is_box(box):
                continue
            total += 1
            shares += _is_share(box, image)
            x, y, w, h = box
            outside += x + w > image["width"] + TOLERANCE or y + h > image["height"] + TOLERANCE
        if total >= 10 and outside > MANY * total:
            raise ValueError(
                f"{outside} of {total} boxes reach out of their images: were corners "
                "[x0, y0, x1, y1] written, or px of another image size? COCO's 'bbox' is "
                "[x, y, width, height]"
            )
        self.in_shares = shares > SYSTEMATIC * len(annotations) and shares > MANY * total

    def _fix(self, annotation: dict) -> bool:
        """Whether the annotation can be used, repaired in place."""
        image = self._image(annotation)
        if image is None:
            self._say("annotation of no image", "left out")
            return False
        if isinstance(annotation["image_id"], str) and type(image["id"]) is int:
            self._say("image_id that is text", "made the number of the image")
        annotation["image_id"] = image["id"]
        category = _whole(annotation.get("category_id"))
        if category not in self.categories:
            self._say("category_id of no category", "left out", annotation.get("category_id"))
            return False
        if isinstance(annotation["category_id"], str):
            self._say("category_id that is text", "made a number", annotation["category_id"])
        annotation["category_id"] = category
        self._fix_keys(annotation)
        if self.in_shares:
            self._scale(annotation, image)
        before = annotation.get("segmentation")
        polygons = self._mask(annotation, image)
        mask_box = None
        if polygons:
            mask_box = polygons_box(polygons)
        elif isinstance(annotation.get("segmentation"), dict):
            mask_box = _rle_box(annotation["segmentation"])
        box = self._box(annotation, image, mask_box)
        if box is None:
            return False
        is_same = box == annotation.get("bbox") and before == annotation.get("segmentation")
        annotation["bbox"] = box
        if "segmentation" not in annotation and self.need_masks:
            if not annotation["iscrowd"]:
                self._say("object without a mask", "left out")
                return False
            x, y, w, h = box
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            self._say("crowd without a mask", "its box was made the mask")
        self._fix_area(annotation, is_same)
        return True

    def _fix_keys(self, annotation: dict) -> None:
        crowd = annotation.get("iscrowd")
        if "iscrowd" not in annotation:
            self.changes.add("annotation without 'iscrowd'", "0 was written")
        elif crowd not in (0, 1):
            self._say("bad 'iscrowd'", "made 0 or 1", crowd)
        annotation["iscrowd"] = int(is_number(crowd) and crowd != 0 or crowd is True)
        ignore = annotation.pop("ignore", 0)
        if ignore != 0:
            annotation["iscrowd"] = 1
            self._say("'ignore', which Detectron2 does not know", "made a crowd", ignore)
        keypoints = annotation.get("keypoints")
        if keypoints is not None:
            if not (isinstance(keypoints, list) and all(map(is_number, keypoints))):
                del annotation["keypoints"]
                self._say("bad 'keypoints'", "removed")

    def _scale(self, annotation: dict, image: dict) -> None:
        """Box and polygons from shares of 1 to px."""
        width, height = image["width"], image["height"]
        if _is_box(annotation.get("bbox")) and _is_share(annotation["bbox"], image):
            x, y, w, h = annotation["bbox"]
            annotation["bbox"] = [x * width, y * height, w * width, h * height]
            self._say("box in shares of 1", "made px")
        polygons = annotation.get("segmentation")
        if isinstance(polygons, list) and polygons and all(map(_is_polygon, polygons)):
            if max(max(polygon) for polygon in polygons) <= SHARE:
                annotation["segmentation"] = [
                    [v * (height if k % 2 else width) for k, v in enumerate(p)] for p in polygons
                ]
                self._say("polygons in shares of 1", "made px")

    # ------------------------------------------------------------------------------------- masks
    def _mask(self, annotation: dict, image: dict) -> list[list[float]]:
        """The usable polygons; a segmentation without any, or an unusable RLE, is removed."""
        segmentation = annotation.get("segmentation")
        polygons: list = []
        if isinstance(segmentation, dict):
            if self._is_usable(segmentation, image):
                return []
        elif isinstance(segmentation, list) and segmentation:
            if _is_polygon(segmentation):  # [x, y, x, y, ...] without the outer list
                segmentation = [segmentation]
                self._say("polygon that is no list of polygons", "made one")
            polygons = self._polygons(segmentation, image)
        elif segmentation is not None and segmentation != []:
            self._say("bad 'segmentation'", "removed", segmentation)
        if polygons:
            annotation["segmentation"] = polygons
        else:
            annotation.pop("segmentation", None)
        return polygons

    def _is_usable(self, rle: dict, image: dict) -> bool:
        try:
            runs = rle_runs(rle)
        except ValueError as error:
            self._say("bad RLE", "removed", str(error))
            return False
        if list(rle["size"]) != [image["height"], image["width"]]:
            self._say("RLE of another size than its image", "removed", rle["size"])
            return False
        if not runs[1::2].any():
            self._say("mask of no size", "removed")
            return False
        return True

    def _polygons(self, polygons: list, image: dict) -> list[list[float]]:
        width, height = image["width"], image["height"]
        kept = []
        for polygon in polygons:
            if not _is_polygon(polygon):
                self._say("polygon that is no 3 points or more", "removed", polygon)
                continue
            xs, ys = polygon[0::2], polygon[1::2]
            if min(*xs, *ys) < -SLACK or max(xs) > width + SLACK or max(ys) > height + SLACK:
                polygon = clip_polygon(polygon, width, height)
                self._say("polygon outside the image", "clipped" if polygon else "removed")
            if not polygon:
                continue
            if max(polygon[0::2]) <= min(polygon[0::2]) or max(polygon[1::2]) <= min(polygon[1::2]):
                self._say("polygon of no size", "removed")
                continue
            kept.append(list(polygon))
        return kept

    # ------------------------------------------------------------------------------------- boxes
    def _box(self, annotation: dict, image: dict, mask_box: list | None) -> list | None:
        """The box, clipped or taken from the mask; None if the annotation is to be left out."""
        box: Any = annotation.get("bbox")
        is_rle = isinstance(annotation.get("segmentation"), dict)  # as the check, which saves time
        fault = _fault_of(box, image, None if is_rle else mask_box)
        if fault is None:
            clipped = _clip(box, image)
            if clipped is not None:
                if clipped is not box:
                    self._say("box outside the image", "clipped", box)
                return clipped
            fault = "box outside the image"
        box_of_mask = None if mask_box is None else _clip(mask_box, image)
        if box_of_mask is None or _fault_of(box_of_mask, image, None):
            self._say(fault, "annotation left out", box)
            return None
        self._say(fault, "taken from the mask", box)
        return box_of_mask

    def _fix_area(self, annotation: dict, is_same: bool) -> None:
        area: Any = annotation.get("area")
        is_area = is_number(area) or (isinstance(area, float) and 0 <= area < math.inf)
        if is_area and area >= 0 and is_same:
            return
        if not is_area or area < 0:
            self.changes.add("annotation without 'area'", "that of the mask, or box, was written")
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict):
            annotation["area"] = float(rle_runs(segmentation)[1::2].sum())
        elif segmentation:
            annotation["area"] = sum(map(polygon_area, segmentation))
        else:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]


def _is_box(box: Any) -> TypeGuard[list]:
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box))


def _is_polygon(polygon: Any) -> bool:
    is_list = isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
    return is_list and all(map(is_number, polygon))


def _is_share(box: list, image: dict) -> bool:
    return max(box) <= SHARE and min(image["width"], image["height"]) > 2 * SHARE


def _fault_of(box: Any, image: dict, mask_box: list | None) -> str | None:
    """Why a box cannot be kept, or None; it may reach out of the image."""
    if not _is_box(box):
        return "bad 'bbox'"
    x, y, width, height = box
    if width <= 0 or height <= 0:
        return "box of no size"
    if _is_share(box, image):
        return "box in shares of 1"
    if mask_box is not None:
        mx, my, mw, mh = mask_box
        if max(mx - x - width, x - mx - mw, my - y - height, y - my - mh) > TOLERANCE:
            return "box and mask do not meet"
    return None


def _clip(box: list, image: dict) -> list | None:
    """A box inside the image, itself if it was; None if nothing of it is."""
    x, y, width, height = box
    right, bottom = x + width, y + height
    if (
        min(x, y) >= -SLACK
        and right <= image["width"] + SLACK
        and bottom <= image["height"] + SLACK
    ):
        return box
    x, y = max(x, 0), max(y, 0)
    width, height = min(right, image["width"]) - x, min(bottom, image["height"]) - y
    return [x, y, width, height] if width > 0 and height > 0 else None


def _rle_box(rle: dict) -> list[float]:
    """[x, y, width, height] around an RLE mask, in px."""
    return mask_util.toBbox(as_rle(rle, *rle["size"])).tolist()


def _number(annotations: list[dict], changes: Changes) -> None:
    """Ids that are whole numbers above 0 and differ; all anew if one is not."""
    ids = [a.get("id") for a in annotations]
    is_good = all(type(k) is int and 0 < k < 2**63 for k in ids) and len(set(ids)) == len(ids)
    if not is_good:
        for number, annotation in enumerate(annotations, 1):
            annotation["id"] = number
        changes.add("annotation ids that are missing, 0 or not unique", "all numbered anew")
