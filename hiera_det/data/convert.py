"""Datasets of other formats as COCO JSON files, and an account of what was done."""

import shlex
from collections import Counter
from pathlib import Path

from .coco_json import refuse_existing, write_coco_json
from .formats import read_dataset
from .formats.source import Source
from .splits import split_content, subset

__all__ = ["convert_data"]

MANY_CLASSES = 20  # above that only the commonest are listed


def convert_data(
    path: Path,
    output: Path,
    *,
    format: str | None = None,
    images: Path | None = None,
    class_name: str = "object",
    share: float | None = None,
    seed: int = 0,
    group: str | None = None,
) -> str:
    """Reads a dataset and writes it as COCO JSON: one file, or one for each part of a split.

    Args:
        path, format, images, class_name: see `formats.read_dataset`.
        output: a name that ends in .json; with a split, NAME_train.json and NAME_val.json.
        share, seed, group: see `splits.split_content`; a share of None keeps a dataset's own split.

    Returns:
        What was found, left out and written, for people.

    Raises:
        FileExistsError: a file of that name is there.
        ValueError, FileNotFoundError: see the functions named.
    """
    if output.suffix != ".json":
        raise ValueError(f"{output}: the name of the result ends in .json")
    if group is not None and share is None:
        raise ValueError(f"--group {group} needs --split, the share for validation, as 0.2")
    for file in [output, *(_part(output, split) for split in ("train", "val", "test"))]:
        refuse_existing(file)  # before minutes of reading
    source = read_dataset(path, format, images=images, class_name=class_name)
    parts = {output: source.content}
    if share is not None:
        if source.splits:
            source.notes.append(
                f"its own split ({', '.join(source.splits)}) was given up for a new one, --split"
            )
        train, val = split_content(source.content, share, seed, group)
        parts = {_part(output, "train"): train, _part(output, "val"): val}
    elif len(source.splits) > 1:
        parts = {
            _part(output, split): subset(source.content, ids)
            for split, ids in source.splits.items()
        }
    for file, content in parts.items():
        write_coco_json(file, content)
    return _account(path, source, parts)


def _part(output: Path, split: str) -> Path:
    return output.with_name(f"{output.stem}_{split}.json")


def _account(path: Path, source: Source, parts: dict[Path, dict]) -> str:
    lines = [f"{path}: {source.kind}, images from {source.image_root}"]
    lines += [f"note: {note}" for note in source.notes]
    names = {c["id"]: c["name"] for c in source.content["categories"]}
    for file, content in parts.items():
        objects = [a for a in content["annotations"] if not a["iscrowd"]]
        crowds = len(content["annotations"]) - len(objects)
        with_mask = sum("segmentation" in a for a in objects)
        empty = len(content["images"]) - len({a["image_id"] for a in content["annotations"]})
        lines.append(
            f"{file}: {len(content['images'])} images ({empty} without objects), {len(objects)} "
            f"objects ({with_mask} with masks){f', {crowds} crowds' if crowds else ''}"
        )
        counts = Counter({k: 0 for k in names})
        counts.update(a["category_id"] for a in objects)
        listed = [f"{names[k]} {n}" for k, n in counts.most_common()]
        if len(listed) > MANY_CLASSES:
            listed = [*listed[:MANY_CLASSES], f"... ({len(listed)} classes)"]
        lines.append(f"    {', '.join(listed)}")
    if source.changes:
        lines += ["left out or repaired:", *(f"    {t}" for t in str(source.changes).split("\n"))]
    else:
        lines.append("nothing was left out")
    first = next(iter(parts))
    lines.append(f"next: hiera-det check-data {_quoted(first)} {_quoted(source.image_root)}")
    return "\n".join(lines)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
