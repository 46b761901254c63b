"""Input files of a prediction: images and videos by path, folder or pattern."""

import difflib
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hiera_det.data.coco_json import read_coco_json
from hiera_det.data.images import SUFFIXES

__all__ = ["VIDEO_SUFFIXES", "InputFile", "Inputs", "find_inputs", "image_ids"]

VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")


class InputFile(NamedTuple):
    """A file, and its name in what is written about it: relative to the folder that was given."""

    path: Path
    name: str


class Inputs(NamedTuple):
    """What is predicted on, in order, and the files of folders that are neither kind."""

    images: list[InputFile]
    videos: list[InputFile]
    skipped: list[Path]


def find_inputs(given: Sequence[str | os.PathLike]) -> Inputs:
    """The images and videos among files, folders (with sub-folders) and patterns as "a/**/*.jpg".

    A file that is named by itself counts as an image whatever its suffix is; in folders and
    patterns the suffix decides, and hidden files do not count. Names are told apart.

    Raises:
        FileNotFoundError: nothing is there under one of them.
        ValueError: there are neither images nor videos.
    """
    found = Inputs([], [], [])
    seen: set[str] = set()
    for item in given:
        text = os.path.expanduser(os.fspath(item))
        is_named = os.path.isfile(text)
        for path, name in _files(text):
            real = os.path.realpath(path)
            if real in seen:
                continue
            seen.add(real)
            suffix = path.suffix.lower()
            if suffix in VIDEO_SUFFIXES:
                found.videos.append(InputFile(path, name))
            elif suffix in SUFFIXES or is_named:
                found.images.append(InputFile(path, name))
            else:
                found.skipped.append(path)
    if not found.images and not found.videos:
        other = f" ({len(found.skipped)} files of other kinds)" if found.skipped else ""
        raise ValueError(
            f"no image or video in {', '.join(map(str, given))}{other}: these are files of "
            f"{', '.join((*SUFFIXES, *VIDEO_SUFFIXES))}"
        )
    return found._replace(images=_told_apart(found.images), videos=_told_apart(found.videos))


def _files(text: str) -> Iterator[tuple[Path, str]]:
    """The files under a path or pattern, sorted, and their names relative to its folder."""
    path = Path(text)
    if path.is_file():
        yield path, path.name
    elif path.is_dir():
        for file in sorted(_walk(text)):
            yield Path(file), os.path.relpath(file, text)
    elif glob.has_magic(text):
        matches = sorted(
            match for match in glob.glob(text, recursive=True) if os.path.isfile(match)
        )
        if not matches:
            raise FileNotFoundError(f"no file matches {text}")
        root = _fixed_folder(text)
        for match in matches:
            yield Path(match), os.path.relpath(match, root)
    else:
        beside = os.listdir(path.parent) if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        hint = (
            f"did you mean {path.parent / near[0]}?" if near else "give a file, folder or pattern"
        )
        raise FileNotFoundError(f"{text}: no such file or folder; {hint}")


def _walk(root: str) -> Iterator[str]:
    seen = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back to where the walk has been
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (os.path.join(folder, name) for name in files if not name.startswith("."))


def _fixed_folder(pattern: str) -> str:
    """The folders of a pattern before its first star."""
    parts = Path(pattern).parts[:-1]
    fixed = next((k for k, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return os.path.join(*parts[:fixed]) if fixed else "."


def _told_apart(files: list[InputFile]) -> list[InputFile]:
    """Files of which no two have the same name: a later one gets its folder's name before it."""
    names: set[str] = set()
    result = []
    for path, name in files:
        folder = path.resolve().parent.name
        number, candidate = 0, name
        while candidate in names:
            candidate = os.path.join(f"{folder}.{number}" if number else folder, name)
            number += 1
        names.add(candidate)
        result.append(InputFile(path, candidate))
    return result


def image_ids(json_file: str | os.PathLike, files: Sequence[InputFile]) -> list[int]:
    """The ids of files in a COCO-format JSON, by their names there.

    Raises:
        FileNotFoundError, ValueError: see `read_coco_json`; or a file is not in it, or its name is
            there twice.
    """
    by_name: dict[str, list] = {}
    by_last: dict[str, list] = {}
    for image in read_coco_json(json_file)["images"]:
        name = os.path.normpath(str(image.get("file_name")))
        by_name.setdefault(name, []).append(image.get("id"))
        by_last.setdefault(os.path.basename(name), []).append(image.get("id"))
    ids = []
    for path, name in files:
        keys = (by_name, name), (by_name, str(path.resolve())), (by_last, path.name)
        matches = next((table[key] for table, key in keys if key in table), [])
        if len(matches) != 1:
            what = f"{len(matches)} images" if matches else "no image"
            raise ValueError(
                f"{json_file} has {what} called {name}, so {path} has no id: give the folder that "
                "its file names start from, or leave --json out"
            )
        ids.append(matches[0])
    return ids
