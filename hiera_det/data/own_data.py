"""Own data on the command line: `--data train.json IMAGES [val.json [IMAGES]]` as overrides."""

import atexit
import filecmp
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .coco_json import read_coco_json, write_coco_json
from .formats.coco import find_image_root
from .splits import split_content

__all__ = ["data_overrides", "part_overrides"]

VAL_SHARE, SEED = 0.2, 0  # of the split where there is no validation file
OUTPUT_DIR = "./output/auto"  # of configs/custom/auto.py
OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w.]*=")


def part_overrides(values: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths and overrides apart: an option that takes several values takes what follows it too."""
    first = next((k for k, v in enumerate(values) if _is_override(v)), len(values))
    return list(values[:first]), list(values[first:])


def _is_override(value: str) -> bool:
    return OVERRIDE.match(value) is not None and not os.path.exists(value)


def data_overrides(paths: Sequence[str], overrides: Sequence[str], dry_run: bool) -> list[str]:
    """The overrides that name the files of a run.

    Without a validation file a fifth of the images is taken for it, the same ones each time; both
    parts are written beside `train.output_dir`, and for a dry run into a temporary folder.

    Args:
        paths: train.json, then as many as there are of: its images, val.json, its images.
        overrides: of the user, which may name `train.output_dir`.
        dry_run: whether nothing is to be left behind.

    Raises:
        FileNotFoundError, ValueError: a file is missing or no COCO file, or there are too many.
        FileExistsError: another split lies where this one is to be written.
    """
    train, train_images, val, val_images = _named(list(paths))
    content = read_coco_json(train)
    train_images = train_images or str(find_image_root(Path(train), content))
    if val is None:
        train, val = _split(Path(train), content, overrides, dry_run)
    elif val_images is None:
        val_images = str(find_image_root(Path(val), read_coco_json(val), Path(train_images)))
    values = (train, train_images, val, val_images or train_images)
    keys = ("train_json", "train_images", "val_json", "val_images")
    return [f"dataloader.{key}={value}" for key, value in zip(keys, values, strict=True)]


def _named(paths: list[str]) -> tuple[str, str | None, str | None, str | None]:
    """Which path is what: annotations end in .json."""
    if os.path.isdir(paths[0]):
        raise ValueError(
            f"--data {paths[0]} is a folder: name its COCO JSON file, or make one with "
            "hiera-det convert-data"
        )
    train, *rest = paths
    train_images = rest.pop(0) if rest and not rest[0].endswith(".json") else None
    val = rest.pop(0) if rest and rest[0].endswith(".json") else None
    val_images = rest.pop(0) if val and rest else None
    if rest:
        raise ValueError(
            f"--data: {rest[0]} is one too many; train.json IMAGES [val.json [IMAGES]]"
        )
    for folder in (train_images, val_images):
        if folder is not None and not os.path.isdir(folder):
            raise FileNotFoundError(f"--data: {folder}: no such folder of images")
    return train, train_images, val, val_images


def _split(train: Path, content: dict, overrides: Sequence[str], dry_run: bool) -> tuple[str, str]:
    named = [text.partition("=")[2] for text in overrides if text.startswith("train.output_dir=")]
    output_dir = os.path.expanduser(named[-1].strip("'\"") if named else OUTPUT_DIR)
    folder = Path(os.path.normpath(output_dir) + "_data")
    if dry_run:
        folder = Path(tempfile.mkdtemp(prefix="hiera_det_"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    files = []
    for part, name in zip(split_content(content, VAL_SHARE, SEED), ("train", "val"), strict=True):
        file = folder / f"{train.stem}_{name}.json"
        _write_once(file, part)
        files.append(str(file))
    return files[0], files[1]


def _write_once(file: Path, content: dict) -> None:
    """Writes a file, or finds it there as it is to be: of a run that goes on, say."""
    try:
        write_coco_json(file, content)
        return
    except FileExistsError:
        pass
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / file.name
        write_coco_json(new, content)
        if not filecmp.cmp(new, file, shallow=False):
            raise FileExistsError(
                f"{file} is there already and holds another split: choose another "
                "train.output_dir, or name your files, --data train.json images val.json"
            )
