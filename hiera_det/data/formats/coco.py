"""COCO JSON: polygons, RLE masks, boxes; a file, or the folders that Roboflow exports."""

from pathlib import Path

from ..coco_fix import fix_coco_content
from ..coco_json import read_coco_json
from ..rle import as_rle
from .source import SPLITS, Source

__all__ = ["detect", "find_image_root", "read"]

NAME = "COCO JSON"
ROBOFLOW = "_annotations.coco.json"
PROBES = 20  # file names that are looked for to find the image folder


def detect(path: Path) -> bool:
    return path.suffix == ".json" if path.is_file() else bool(_json_files(path))


def read(path: Path, images: Path | None = None) -> Source:
    """Reads one file or several, repaired, with masks in one form: polygons or RLE text.

    Args:
        path: a JSON file, or a folder with train/_annotations.coco.json and its like, or with
            annotations/*.json.
        images: the folder that file names start from; None looks around the file.

    Raises:
        ValueError, FileNotFoundError: see `read_coco_json` and `fix_coco_content`; or the images
            are not found.
    """
    files = [path] if path.is_file() else _json_files(path)
    result = Source(NAME, {"images": [], "annotations": [], "categories": []}, Path())
    parts = []
    for file in files:
        content = read_coco_json(file)
        root = images or find_image_root(file, content)
        content, changes = fix_coco_content(content, root, need_masks=False, name=str(file))
        result.changes.merge(changes)
        for annotation in content["annotations"]:
            _as_text(annotation)
        parts.append((file, content, root.resolve()))
    result.image_root = _common([root for _, _, root in parts])
    for file, content, root in parts:
        _append(result, content, root.relative_to(result.image_root), _split_of(file))
    if len(files) == 1:
        result.splits.clear()
    _drop_supercategory(result)
    return result


def _json_files(path: Path) -> list[Path]:
    found = sorted([*path.glob(ROBOFLOW), *path.glob(f"*/{ROBOFLOW}")])
    return found or sorted(path.glob("annotations/*.json"))


def _split_of(file: Path) -> str:
    """train, val or test, by the folder or the name of the file; else its name."""
    words = [file.parent.name] if file.name == ROBOFLOW else file.stem.replace("-", "_").split("_")
    named = [SPLITS[word] for word in words if word in SPLITS]
    return named[0] if named else file.stem


def find_image_root(file: Path, content: dict, *others: Path) -> Path:
    """The folder in or around that of a COCO file, or among others, with the most of its images.

    Raises:
        FileNotFoundError: none has one.
    """
    names = [image.get("file_name") for image in content["images"][:PROBES]]
    names = [name for name in names if isinstance(name, str) and name]
    parent = file.resolve().parent
    around = []  # a folder named as the file goes first: others may hold files of the same names
    for word in file.stem.split("_"):
        around += [parent / word, parent.parent / word, parent.parent / "images" / word]
    around += [*others, parent, parent / "images", parent.parent, parent.parent / "images"]
    counts = [sum((folder / name).is_file() for name in names) for folder in around]
    if not max(counts, default=0):
        raise FileNotFoundError(
            f"{file}: its images are not found in or around its folder; name the folder that its "
            "file names start from (--images of convert-data, the second of --data)"
        )
    return around[counts.index(max(counts))]


def _common(roots: list[Path]) -> Path:
    first, *others = roots
    shared = [first, *first.parents]
    return next(p for p in shared if all(p == other or p in other.parents for other in others))


def _append(result: Source, content: dict, prefix: Path, split: str) -> None:
    """Appends a file's content under new ids; classes are told apart by their names."""
    categories = result.content["categories"]
    number_of = {category["name"]: category["id"] for category in categories}
    classes = {}
    for category in sorted(content["categories"], key=lambda c: c["id"]):
        if category["name"] not in number_of:
            number_of[category["name"]] = len(categories) + 1
            categories.append({**category, "id": len(categories) + 1})
        classes[category["id"]] = number_of[category["name"]]
    images = {}
    for image in content["images"]:
        number = images[image["id"]] = len(result.content["images"]) + 1
        name = (prefix / image["file_name"]).as_posix()
        result.content["images"].append({**image, "id": number, "file_name": name})
        result.splits.setdefault(split, []).append(number)
    for annotation in content["annotations"]:
        number = len(result.content["annotations"]) + 1
        result.content["annotations"].append(
            {
                **annotation,
                "id": number,
                "image_id": images[annotation["image_id"]],
                "category_id": classes[annotation["category_id"]],
            }
        )


def _as_text(annotation: dict) -> None:
    """Plain runs of an RLE to COCO's text, which takes a tenth of the room."""
    rle = annotation.get("segmentation")
    if isinstance(rle, dict) and isinstance(rle["counts"], list):
        text = as_rle(rle, *rle["size"])["counts"].decode("ascii")
        annotation["segmentation"] = {"size": list(rle["size"]), "counts": text}


def _drop_supercategory(result: Source) -> None:
    """Roboflow lists the name of the project as a category above the others, without objects."""
    categories = result.content["categories"]
    used = {annotation["category_id"] for annotation in result.content["annotations"]}
    above = {c.get("supercategory") for c in categories if c["id"] in used}
    gone = [c for c in categories if c["id"] not in used and c["name"] in above]
    if gone:
        result.content["categories"] = [c for c in categories if c not in gone]
        for category in gone:
            what = "category that only stands above others"
            result.changes.add(what, "left out", repr(category["name"]))
