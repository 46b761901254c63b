"""Damaged COCO files: a finding, or a right load; never a traceback, never a silent loss; and once
repaired, no finding."""

import copy
import json
import math
import random
from collections import Counter
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.data.datasets import load_coco_json
from detectron2.data.detection_utils import (
    annotations_to_instances,
    filter_empty_instances,
    transform_instance_annotations,
)
from detectron2.data.transforms import NoOpTransform

from hiera_det.data.coco_check import check_coco_content, check_coco_json
from hiera_det.data.coco_fix import fix_coco_content
from hiera_det.data.coco_json import class_names, max_objects, num_images, parse_coco_json

# Kinds of which a few are only warned of, because Detectron2 leaves the instance out.
LOST = {"box of no size", "polygon without 3 whole points", "mask of no size"}
LOST |= {"mask outside the image", "box outside the image", "box and mask do not meet"}


HEIGHT, WIDTH = 40, 60
NAMES = ("a.png", "deep/b.png")


def good_content(num_objects: int) -> dict:
    """A valid COCO content: polygons, RLE masks as text and as counts, and a crowd."""
    annotations = []
    for k in range(num_objects):
        x, y, width, height = 3 + k % 40, 4 + k % 25, 6 + k % 7, 5 + k % 5
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        segmentation: Any = [corners]
        if k % 5 == 3:
            segmentation = {"size": [HEIGHT, WIDTH], "counts": "m34T10000000000000000000[i1"}
        elif k % 5 == 4:
            rest = HEIGHT * WIDTH - 130 - 9
            segmentation = {"size": [HEIGHT, WIDTH], "counts": [130, 4, 0, 5, rest]}
        annotations.append(
            {
                "id": k + 1,
                "image_id": 1 + k % 2,
                "category_id": (4, 9)[k % 2],
                "bbox": [x, y, width, float(height)],
                "area": float(width * height),
                "iscrowd": 0,
                "segmentation": segmentation,
            }
        )
    annotations[-1].update(iscrowd=1, segmentation={"size": [HEIGHT, WIDTH], "counts": [0, 2400]})
    return {
        "images": [
            {"id": k, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for k, name in enumerate(NAMES, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 4, "name": "fig"}, {"id": 9, "name": "plum"}],
    }


def mutate(rng: random.Random, good: str) -> str:
    """The text of a file in which one to three things were changed."""
    data = json.loads(good)
    for _ in range(rng.choice((1, 1, 2, 3))):
        change = _change_geometry if rng.random() < 0.3 else _change
        data = change(rng, data)
    text = json.dumps(data)
    if rng.random() < 0.05:
        cut = rng.randrange(len(text))
        text = rng.choice((text[:cut], text[:cut] + rng.choice('{[",:0}') + text[cut + 1 :]))
    return text


def _change_geometry(rng: random.Random, data: Any) -> Any:
    """What real files have now and then, and what no run should stop at."""
    if not isinstance(data, dict) or not isinstance(data.get("annotations"), list):
        return data
    annotation = rng.choice(data["annotations"] or [{}])
    if isinstance(annotation, dict):
        value: Any
        key, value = rng.choice(
            (
                ("bbox", [10, 10, 0, 4]),
                ("bbox", [0, 0, WIDTH, HEIGHT]),
                ("bbox", [50, 30, 30, 30]),
                ("bbox", [1e5, 1e5, 9, 9]),
                ("bbox", [0.2, 0.3, 0.1, 0.2]),
                ("segmentation", [[10, 10, 20, 10]]),
                ("segmentation", [[10, 10, 20, 10, 20, 20], [1, 2]]),
                ("segmentation", [[10, 10, 20, 10, 15, 10]]),
                ("segmentation", [[0.1, 0.2, 0.7, 0.2, 0.7, 0.9]]),
                ("segmentation", [[1e5, 1e5, 2e5, 1e5, 2e5, 2e5]]),
                ("segmentation", {"size": [HEIGHT, WIDTH], "counts": [2400]}),
                ("segmentation", []),
                ("area", None),
                ("iscrowd", 1),
                ("ignore", 0),
                ("image_id", 2.0),
                ("category_id", 9.0),
                ("score", 0.5),
                ("keypoints", [1, 2, 2]),
            )
        )
        annotation[key] = value
    return data


def _change(rng: random.Random, data: dict) -> dict:
    """Walks down from a random list to a random place, and changes what is there."""
    if rng.random() < 0.02 and isinstance(data, dict):
        return rng.choice((None, [], {}, 3, "x", [data], {**data, "images": None}))
    if not isinstance(data, dict) or not data:
        return data
    node: Any = data
    key: Any = rng.choice(list(data))
    while isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.93:
        node = node[key]
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
    action = rng.random()
    if action < 0.15:
        del node[key]
    elif action < 0.25 and isinstance(node, list):
        node.insert(rng.randrange(len(node) + 1), node[key])
    elif action < 0.3 and isinstance(node, dict):
        node[rng.choice(("ignore", "iscrowd", "area", "keypoints", "x"))] = _value(rng)
    elif action < 0.6:
        node[key] = _near(rng, node[key])
    else:
        node[key] = _value(rng)
    return data


def _near(rng: random.Random, value: Any) -> Any:
    """What somebody's script could have made of the value."""
    if isinstance(value, bool) or value is None:
        return int(bool(value))
    if isinstance(value, int) and abs(value) > 2**63:
        return -value
    if isinstance(value, (int, float)):
        return rng.choice(
            (-value, float(value), str(value), value + 1, value * 1e3, value / 60, [value], 0)
        )
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return rng.choice((value[:at], value + value, value[:at] + "~" + value[at:], value.upper()))
    if isinstance(value, list):
        return rng.choice((value[:-1], value * 2, [value], dict(enumerate(value)), value[::-1]))
    return rng.choice(([value], list(value.values()), {**value, "counts": ""}, str(value)))


def _value(rng: random.Random) -> Any:
    """Any value that JSON, or Python's reading of it, can hold."""
    deep: Any = 1
    for _ in range(rng.choice((2, 30, 400))):
        deep = [deep] if rng.random() < 0.8 else {"a": deep}
    values = (
        None,
        True,
        False,
        0,
        1,
        -1,
        0.5,
        7,
        1e18,
        -1e300,
        10**12,
        10**30,
        10**400,
        2**63,
        math.nan,
        math.inf,
        -math.inf,
        "",
        "1",
        "\ud800\x00",
        "../" * 9 + "x",
        "n" * 5000,
        [],
        {},
        [[]],
        [[], []],
        [[1]],
        [1, 2, 3, 4],
        [[0.1, 0.2, 0.7, 0.2, 0.7, 0.9]],
        [[1, 1, 1, 1, 1, 1]],
        [[10, 10, 20, 10, 20, 20], [1, 2]],
        [[10, 10, 20, 10, 20, 20], {"size": [HEIGHT, WIDTH], "counts": "0"}],
        [0.1, 0.2, 0.3, 0.4],
        {"size": [HEIGHT, WIDTH], "counts": ""},
        {"size": [HEIGHT, WIDTH], "counts": "ooooooo"},
        {"size": [HEIGHT, WIDTH], "counts": "é"},
        {"size": [HEIGHT, WIDTH], "counts": [2400]},
        {"size": [HEIGHT, WIDTH], "counts": [-5, 2405]},
        {"size": [HEIGHT, WIDTH], "counts": [2**40, 2400 - 2**40]},
        {"size": [10**9, 10**9], "counts": "0"},
        {"size": [0, 0], "counts": []},
        {"size": HEIGHT, "counts": [0.5]},
        deep,
    )
    return rng.choice(values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("mutants")
    (root / "deep").mkdir()
    for name in NAMES:
        cv2.imwrite(str(root / name), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return root


def load(path, folder, need_masks: bool) -> int:
    """The objects that training sees: Detectron2's loader, then the steps of its mapper."""
    count = 0
    for record in load_coco_json(str(path), str(folder), None):
        annotations = []
        for annotation in record["annotations"]:
            if annotation.get("iscrowd", 0) != 0:
                continue
            annotation.pop("keypoints", None)
            if not need_masks:
                annotation.pop("segmentation", None)
            size = (record["height"], record["width"])
            annotations.append(transform_instance_annotations(annotation, NoOpTransform(), size))
        mask_format = "bitmask" if need_masks else "polygon"
        instances = annotations_to_instances(annotations, size_of(record), mask_format)
        if need_masks and annotations:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        assert len(instances) == len(annotations)
        count += len(filter_empty_instances(instances))
    return count


def size_of(record: dict) -> tuple[int, int]:
    return record["height"], record["width"]


def verdict(folder, text: bytes, need_masks: bool, split: str) -> str:
    """Checks one file; what the report says must be true of the load."""
    try:
        content = parse_coco_json(text, "mutant")
    except ValueError:
        return "error"
    report = check_coco_content(content, "mutant", str(folder), need_masks=need_masks, split=split)
    str(report).encode("utf-8")  # can be printed
    if report.errors:
        return "error"
    path = folder / "mutant.json"
    path.write_bytes(text)
    objects = sum(a.get("iscrowd", 0) == 0 for a in content["annotations"])
    counted = sum(w.count for w in report.warnings if w.kind in LOST)
    loaded = load(path, folder, need_masks)
    assert objects - counted <= loaded <= objects, (objects, counted, loaded, str(report))
    return "warning" if report.warnings else "load"


def through_files(folder, text: bytes) -> None:
    """What a config and `check_coco_json` ask of a file."""
    path = folder / "mutant.json"
    path.write_bytes(text)
    for derived in (class_names, num_images, max_objects):
        try:
            derived(path)
        except ValueError as error:
            assert "mutant.json" in str(error)
    str(check_coco_json(path, folder))


def run_trials(folder, seeds) -> None:
    verdicts: Counter = Counter()
    for seed in seeds:
        rng = random.Random(seed)
        text = mutate(rng, rng.choice(GOOD)).encode()
        try:
            verdicts[verdict(folder, text, rng.random() < 0.7, rng.choice(("train", "val")))] += 1
            if seed % 8 == 0:
                through_files(folder, text)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    assert min(verdicts[kind] for kind in ("error", "warning", "load")) > len(seeds) / 50, verdicts


# In a file of 110, one object of bad geometry is below the share that makes it an error.
GOOD = [json.dumps(good_content(num_objects)) for num_objects in (6, 6, 6, 6, 6, 6, 110)]


@pytest.mark.parametrize("num_objects", [6, 110])
def test_the_file_that_is_mutated_is_good(folder, num_objects):
    path = folder / "good.json"
    path.write_text(json.dumps(good_content(num_objects)))
    for split in ("train", "val", None):
        report = check_coco_json(path, folder, split=split)
        assert report.errors == report.warnings == [], report
    assert load(path, folder, need_masks=True) == num_objects - 1


def test_a_thousand_mutants(folder):
    run_trials(folder, range(1000))


@pytest.mark.slow
def test_five_thousand_mutants(folder):
    run_trials(folder, range(1000, 6000))


# --------------------------------------------------------------------------------------- repair
def run_repairs(folder, seeds) -> None:
    repaired = unusable = 0
    for seed in seeds:
        rng = random.Random(seed)
        text, need_masks = mutate(rng, rng.choice(GOOD)).encode(), rng.random() < 0.7
        try:
            content = parse_coco_json(text, "mutant")
        except ValueError:
            continue
        before = copy.deepcopy(content)
        had_errors = bool(
            check_coco_content(content, "", str(folder), need_masks=need_masks, split="val").errors
        )
        try:
            fixed, changes = fix_coco_content(content, folder, need_masks=need_masks)
        except ValueError as error:
            str(error).encode("utf-8", "backslashreplace")
            unusable += 1
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        assert repr(content) == repr(before), seed  # by text: NaN is not itself
        text = json.dumps(fixed).encode()
        for split in ("train", "val", None):
            again = parse_coco_json(text, "fixed")
            report = check_coco_content(
                again, "fixed", str(folder), need_masks=need_masks, split=split
            )
            assert not report.errors, (seed, str(report))
        assert changes or not had_errors, seed
        lost = len(content["annotations"]) - len(fixed["annotations"])
        assert lost <= sum(changes.counts().values()) or "images that share an id" in str(changes)
        if had_errors:
            repaired += 1
            twice, more = fix_coco_content(fixed, folder, need_masks=need_masks)
            assert repr(twice) == repr(fixed) and not more, (seed, str(more))
    assert repaired > len(seeds) / 5 and unusable < len(seeds) / 10, (repaired, unusable)


def test_mutants_pass_the_check_once_repaired(folder):
    run_repairs(folder, range(300))


@pytest.mark.slow
def test_more_mutants_pass_the_check_once_repaired(folder):
    run_repairs(folder, range(300, 1300))


@pytest.mark.parametrize("num_objects", [6, 110])
def test_the_repair_leaves_a_good_file_as_it_is(folder, num_objects):
    content = good_content(num_objects)
    fixed, changes = fix_coco_content(content, folder)
    assert fixed == content and not changes
