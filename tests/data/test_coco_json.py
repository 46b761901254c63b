"""Registering a user's own COCO-format file."""

import json
import os

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from hiera_det.data.coco_json import class_names, read_coco_json, register_coco_json

CONTENT = {
    "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 9,
            "iscrowd": 0,
            "area": 50.0,
            "bbox": [2, 3, 10, 5],
            "segmentation": [[2, 3, 12, 3, 12, 8, 2, 8]],
        }
    ],
    "categories": [{"id": 9, "name": "plum"}, {"id": 4, "name": "fig"}],
}


@pytest.fixture
def json_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(CONTENT))
    return path


@pytest.fixture
def name():
    yield "test_coco_json_mine"
    if "test_coco_json_mine" in DatasetCatalog:
        DatasetCatalog.remove("test_coco_json_mine")
        MetadataCatalog.remove("test_coco_json_mine")


def test_class_names_are_in_detectron2s_order(json_file, name):
    assert class_names(json_file) == ["fig", "plum"]
    assert register_coco_json(name, json_file, json_file.parent) == ["fig", "plum"]
    (record,) = DatasetCatalog.get(name)
    assert record["annotations"][0]["category_id"] == 1
    assert MetadataCatalog.get(name).thing_classes == ["fig", "plum"]
    assert MetadataCatalog.get(name).evaluator_type == "coco"


def test_class_names_follow_a_changed_file(json_file):
    assert class_names(json_file) == ["fig", "plum"]
    json_file.write_text(json.dumps({**CONTENT, "categories": [{"id": 1, "name": "pear"}]}))
    assert class_names(json_file) == ["pear"]


def test_registering_again_is_allowed_for_the_same_files_alone(
    json_file, name, tmp_path, monkeypatch
):
    register_coco_json(name, json_file, tmp_path)
    register_coco_json(name, str(json_file), str(tmp_path))
    monkeypatch.chdir(tmp_path)
    register_coco_json(name, os.path.relpath(json_file), ".")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="choose another name"):
        register_coco_json(name, json_file, tmp_path / "other")


def test_missing_paths_raise(json_file, name, tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such.json"):
        class_names(tmp_path / "no-such.json")
    with pytest.raises(FileNotFoundError, match="no-such-folder"):
        register_coco_json(name, json_file, tmp_path / "no-such-folder")
    assert name not in DatasetCatalog


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(CONTENT)[:-30], "not valid JSON.*cut short"),
        ("[]", "holds a list"),
        ('{"images": [], "annotations": []}', "'categories' is missing"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' is a dict"),
        ('{"images": [3], "annotations": [], "categories": []}', r"'images'\[0\] is 3"),
    ],
)
def test_what_is_not_coco_raises(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_coco_json(path)


@pytest.mark.parametrize(
    ("categories", "message"),
    [([], "'categories' is empty"), ([{"id": "1", "name": "fig"}], "needs an 'id'")],
)
def test_bad_categories_raise(tmp_path, categories, message):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**CONTENT, "categories": categories}))
    with pytest.raises(ValueError, match=message):
        class_names(path)
