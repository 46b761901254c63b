"""YOLO folders: data.yaml, and a .txt file beside each image; boxes, and polygons of segmentation.

Layout and lines as in Ultralytics' documentation (docs.ultralytics.com/datasets): class, then
centre x, centre y, width, height, or x, y of three points or more; all in shares of the image.
"""

from pathlib import Path

import yaml

from ..polygons import polygon_area, polygons_box
from ..progress import progress
from .source import Builder, Source, find_images, is_image

__all__ = ["detect", "read"]

NAME = "YOLO folder"
SPLITS = ("train", "val", "test")
FAR = 2.0  # a coordinate beyond it is no share of an image
LISTS = ("classes.txt", "obj.names", "labels.txt")  # of class names, where there is no data.yaml


def detect(path: Path) -> bool:
    if path.is_file():
        return path.suffix in (".yaml", ".yml") and _is_data_yaml(path)
    return _yaml_of(path) is not None or bool(_pairs_without_yaml(path))


def read(path: Path) -> Source:
    """Reads a data.yaml, or the folder that holds it or images/ and labels/.

    Raises:
        ValueError, FileNotFoundError: no images, or a data.yaml that says nothing of them.
    """
    yaml_file = path if path.is_file() else _yaml_of(path)
    if yaml_file is None:
        builder = Builder(NAME, _listed_names(path))
        images: dict[str | None, list[Path]] = {None: _pairs_without_yaml(path)}
        folder = path
    else:
        folder = yaml_file.parent
        content = _load(yaml_file)
        builder = Builder(NAME, _names(content["names"], yaml_file))
        images = {s: _images(content, s, folder, builder) for s in SPLITS if content.get(s)}
        if not any(images.values()):
            raise ValueError(
                f"{yaml_file}: none of its train, val and test leads to an image; they are paths "
                "from 'path', or from the folder of the file"
            )
    used = 0
    for split, files in images.items():
        for file in progress(files, f"YOLO {split or ''}".strip()):
            used = max(used, _read_image(file, split, builder))
    while len(builder.class_names) < used:
        builder.class_names.append(f"class {len(builder.class_names)}")
        builder.changes.add("class without a name", "named by its number", builder.class_names[-1])
    return builder.source(folder)


# -------------------------------------------------------------------------------------- data.yaml
def _yaml_of(folder: Path) -> Path | None:
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    return next((file for file in files if _is_data_yaml(file)), None)


def _is_data_yaml(file: Path) -> bool:
    try:
        content = _load(file)
    except ValueError:
        return False
    return "names" in content and any(split in content for split in SPLITS)


def _load(file: Path) -> dict:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    return content if isinstance(content, dict) else {}


def _names(names: object, file: Path) -> list[str]:
    """Class names by number; YAML has them as a list or by number."""
    if isinstance(names, dict) and all(isinstance(k, int) and k >= 0 for k in names):
        count = max(names, default=-1) + 1
        return [str(names.get(k, f"class {k}")) for k in range(count)]
    if isinstance(names, list):
        return [str(name) for name in names]
    raise ValueError(f"{file}: 'names' is neither a list nor numbers with names")


def _images(content: dict, split: str, folder: Path, builder: Builder) -> list[Path]:
    """The image files of a split: of folders, of lists of files, or of several of these."""
    values = content[split] if isinstance(content[split], list) else [content[split]]
    found: list[Path] = []
    for value in values:
        place = _place(str(value), content.get("path"), folder)
        if place is None:
            builder.changes.add(f"{split} of data.yaml that is not there", "left out", str(value))
        elif place.is_dir():
            found += find_images(place)
        elif place.suffix == ".txt":
            lines = place.read_text(encoding="utf-8-sig").splitlines()
            files = [_place(line.strip(), str(place.parent), folder) for line in lines if line]
            found += [file for file in files if file is not None and is_image(file)]
            lost = sum(file is None for file in files)
            if lost:
                builder.changes.add("listed image that is not there", "left out", str(place), lost)
        elif is_image(place):
            found.append(place)
    return found


def _place(value: str, base: object, folder: Path) -> Path | None:
    """Where a path of data.yaml leads; None if nowhere.

    'path' is often that of another machine, and Roboflow writes ../train/images for what lies
    beside the file, so the folder of the file is tried too.
    """
    starts = [folder / str(base)] if base else []
    inside = value.replace("\\", "/")
    while inside.startswith("../"):
        inside = inside[3:]
    candidates = [start / value for start in [*starts, folder]] + [folder / inside]
    return next((place for place in candidates if value and place.exists()), None)


def _listed_names(folder: Path) -> list[str]:
    for place in (folder, folder / "labels"):
        for name in LISTS:
            if (place / name).is_file():
                lines = (place / name).read_text(encoding="utf-8-sig").splitlines()
                return [line.strip() for line in lines if line.strip()]
    return []


def _pairs_without_yaml(folder: Path) -> list[Path]:
    """The images under images/ where labels/ has a text for one of them."""
    if not (folder / "images").is_dir() or not any((folder / "labels").rglob("*.txt")):
        return []
    images = find_images(folder / "images")
    return images if any(_label_file(image).is_file() for image in images) else []


# ----------------------------------------------------------------------------------------- labels
def _label_file(image: Path) -> Path:
    """a/images/b/c.jpg has its labels in a/labels/b/c.txt; c.jpg elsewhere has c.txt beside it."""
    parts = list(image.parent.parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
    return Path(*parts, f"{image.stem}.txt")


def _read_image(file: Path, split: str | None, builder: Builder) -> int:
    """Adds an image with its objects; returns 1 + the largest class number."""
    image = builder.add_image(file, split)
    labels = _label_file(file)
    if image is None or not labels.is_file():  # an image without objects needs no labels
        return 0
    most = 0
    lines = labels.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        values = line.split()
        if not values:
            continue
        where = f"{labels}:{number}: {line:.60}"
        try:
            class_number = float(values[0])
            shares = [float(value) for value in values[1:]]
        except ValueError:
            builder.changes.add("line that is not numbers", "left out", where)
            continue
        is_class = class_number >= 0 and class_number.is_integer() and class_number < 100_000
        is_box = len(shares) == 4
        is_polygon = len(shares) >= 6 and len(shares) % 2 == 0
        if not is_class or not (is_box or is_polygon):
            what = "line that is neither class and box nor class and polygon"
            builder.changes.add(what, "left out", where)
        elif not all(abs(share) <= FAR for share in shares):
            builder.changes.add("line whose numbers are no shares of 1", "left out", where)
        else:
            most = max(most, int(class_number) + 1)
            _add(image, int(class_number), shares, builder)
    return most


def _add(image: dict, class_number: int, shares: list[float], builder: Builder) -> None:
    width, height = image["width"], image["height"]
    px = [share * (height if k % 2 else width) for k, share in enumerate(shares)]
    if len(px) == 4:
        x, y, w, h = px
        box = [round(value, 3) for value in (x - w / 2, y - h / 2, w, h)]
        builder.add_object(image, class_number, box)
        return
    px = [round(value, 3) for value in px]
    builder.add_object(image, class_number, polygons_box([px]), [px], polygon_area(px))
