"""Training and validation part of a COCO-format dataset, by seed and by group."""

import os
import random
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["split_content", "subset"]


def split_content(
    content: dict[str, Any], share: float, seed: int = 0, group: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits whole images, or whole groups of them; the same arguments give the same split.

    Args:
        content: of a COCO file, whose images have ids and file names.
        share: of the images for validation.
        seed: of the shuffle.
        group: images that belong together (of one patient, slide or film) stay together: "folder",
            or a regular expression that is searched in the file name, whose first group, or else
            the whole match, names theirs. An image without a match is a group of its own.

    Returns:
        The content for training, and that for validation.

    Raises:
        ValueError: a share outside (0, 1), a bad expression, or fewer than two groups.
    """
    if not 0 < share < 1:
        raise ValueError(f"a split of {share:g}: give the share for validation, between 0 and 1")
    groups: dict[str, list] = {}
    for image in content["images"]:
        groups.setdefault(_group_of(image["file_name"], group), []).append(image["id"])
    if len(groups) < 2:
        raise ValueError(
            f"all {len(content['images'])} images are in one group (group={group!r}): they cannot "
            "be split"
        )
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    wanted = share * len(content["images"])
    val = set(groups[names[0]])  # one group at least, and not all
    for name in names[1:-1]:
        # A group comes in if that is nearer to what is wanted.
        with_it = len(val) + len(groups[name])
        if abs(with_it - wanted) < abs(len(val) - wanted):
            val.update(groups[name])
    ids = [image["id"] for image in content["images"]]
    return subset(content, (k for k in ids if k not in val)), subset(content, val)


def _group_of(file_name: str, group: str | None) -> str:
    if group is None:
        return file_name
    if group == "folder":
        return os.path.dirname(file_name)
    try:
        found = re.search(group, file_name)
    except re.error as error:
        raise ValueError(f"group {group!r} is no regular expression: {error}") from error
    if found is None:
        return file_name
    # Apart from the names of images without a match.
    return "group " + (found[1] if found.re.groups and found[1] is not None else found[0])


def subset(content: dict[str, Any], image_ids: Iterable) -> dict[str, Any]:
    """The part of a dataset with some images; all categories stay."""
    wanted = set(image_ids)
    return content | {
        "images": [image for image in content["images"] if image["id"] in wanted],
        "annotations": [a for a in content["annotations"] if a["image_id"] in wanted],
    }
