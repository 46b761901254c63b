"""Every fault of a dataset that the check knows, planted one at a time."""

import copy
import json
import math
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from hiera_det.data.coco_check import check_coco_content, check_coco_json
from hiera_det.data.coco_json import register_coco_json
from hiera_det.data.run_check import check_dataset, check_train_and_val

REPO = Path(__file__).parents[2]
RLE = {"size": [20, 30], "counts": [10, 40, 550]}


def content() -> dict:
    """Two images, two objects and a crowd, without a fault."""
    polygon = [2, 3, 12, 3, 12, 8, 2, 8]
    box = {"area": 50.0, "bbox": [2, 3, 10, 5], "iscrowd": 0}
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 20, "width": 30},
            {"id": 2, "file_name": "deep/b.png", "height": 20, "width": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 4, "segmentation": [polygon], **box},
            {"id": 2, "image_id": 2, "category_id": 9, "segmentation": [polygon], **box},
            {"id": 3, "image_id": 2, "category_id": 9, **box, "segmentation": RLE, "iscrowd": 1},
        ],
        "categories": [{"id": 4, "name": "fig"}, {"id": 9, "name": "plum"}],
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "deep").mkdir()
    for name in ("a.png", "deep/b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((20, 30, 3), np.uint8))
    return tmp_path


def check(folder: Path, data: dict, **kwargs):
    path = folder / "data.json"
    path.write_text(json.dumps(data))
    return check_coco_json(path, folder, **kwargs)


@pytest.mark.parametrize("split", ["train", "val", None])
def test_a_good_dataset_has_no_findings(folder, split):
    report = check(folder, content(), num_classes=2, split=split)
    assert report.errors == [] and report.warnings == []
    report.raise_if_errors()
    assert "2 images (0 without annotations), 3 annotations (1 crowds" in str(report)


def plant(path: str, value) -> dict:
    """The good dataset with one entry replaced, or removed if the value is the ellipsis."""
    data = copy.deepcopy(content())
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    entry = data
    for key in parents:
        entry = entry[key]
    if value is ...:
        del entry[last]
    else:
        entry[last] = value
    return data


ERRORS = [
    ("images.1.id", 1, "duplicated 'images' id", "id 1 again"),
    ("images.1.id", None, "bad 'images' id", "id None"),
    ("images", [], "no images", "images"),
    ("images.0.file_name", ..., "image without a file name", "images[0]"),
    ("images.0.height", "20", "bad image size", "height '20'"),
    ("images.0.width", 31, "image size disagrees with the file", "(30, 20)"),
    ("images.0.file_name", "c.png", "image file missing", "image 1: "),
    ("annotations.1.id", 1, "duplicated 'annotations' id", "annotations[1]: id 1 again"),
    ("annotations.1.id", "2", "bad 'annotations' id", "id '2'"),
    ("annotations.0.image_id", 7, "image_id of no image", "image_id 7"),
    ("annotations.0.image_id", "1", "image_id of no image", "image_id '1'"),
    ("annotations.0.category_id", 5, "category_id of no category", "category_id 5"),
    ("annotations.0.category_id", [4], "category_id of no category", "category_id [4]"),
    ("annotations.0.bbox", ..., "bad 'bbox'", "None"),
    ("annotations.0.bbox", [1, 2, 3], "bad 'bbox'", "[1, 2, 3]"),
    ("annotations.0.bbox", [1, 2, math.nan, 3], "bad 'bbox'", "nan"),
    ("annotations.0.bbox", [1, 2, 0, 3], "box of no size", "[1, 2, 0, 3]"),
    ("annotations.0.bbox", [20, 10, 25, 15], "box outside the image", "30x20"),
    ("annotations.0.segmentation", ..., "object without a mask", "annotations[0]"),
    ("annotations.0.segmentation", [], "object without a mask", "segmentation []"),
    ("annotations.0.segmentation", [[2, 3, 12, 3, 7, 3]], "mask of no size", "(12, 3)"),
    ("annotations.0.segmentation", [[2, 3, 92, 3, 92, 8]], "mask outside the image", "30x20"),
    ("annotations.0.segmentation", [[20, 14, 28, 14, 28, 19]], "box and mask do not", "(28, 19)"),
    ("annotations.0.segmentation", [[2, 3, 1e30, 3, 12, 8]], "polygon far from", "1e+30"),
    ("annotations.0.bbox", [0.1, 0.2, 0.3, 0.5], "box in shares of 1", "[0.1, 0.2, 0.3, 0.5]"),
    ("annotations.0.bbox", [1, 2, 10**400, 3], "bad 'bbox'", "1000"),
    ("annotations.0.image_id", [1], "image_id of no image", "[1]"),
    ("annotations.0.id", [1], "bad 'annotations' id", "[1]"),
    ("categories.0.id", [4], "bad 'categories' id", "[4]"),
    ("images.0.id", "1", "'images' ids of two types", "'1'"),
    ("annotations.0.segmentation", [[]], "polygon without 3 whole points", "1 of 1"),
    ("annotations.0.segmentation", [[1, 1, 5, 5]], "polygon without 3 whole points", "1 of 1"),
    ("annotations.0.segmentation", [[1, 1, 5, 5, 1, 5, 2]], "polygon without 3", "1 of 1"),
    ("annotations.0.segmentation", [1, 1, 5, 5, 1, 5], "bad polygon", "annotations[0]"),
    ("annotations.0.segmentation", [[1, 1, 5, math.inf, 1, 5]], "polygon with a number", "id 1"),
    ("annotations.0.segmentation", "x", "bad 'segmentation'", "'x'"),
    ("annotations.2.segmentation", {"counts": []}, "bad RLE", "counts"),
    ("annotations.2.segmentation.size", [30, 20], "RLE of another size", "[20, 30]"),
    ("annotations.2.segmentation.counts", [1, 2], "bad RLE", "add up to 3"),
    ("annotations.2.segmentation.counts", [-1, 601], "bad RLE", "a whole number"),
    ("annotations.2.segmentation.counts", "", "bad RLE", "empty"),
    ("annotations.2.segmentation.counts", "~", "bad RLE", "not COCO's"),
    ("annotations.2.segmentation.counts", ":X1Va", "bad RLE", "cut short"),
    ("annotations.2.segmentation", {"size": [20, 30], "counts": [600]}, "mask of no size", "pixel"),
    ("annotations.0.iscrowd", None, "bad 'iscrowd'", "iscrowd None"),
    ("annotations.0.iscrowd", 2, "bad 'iscrowd'", "iscrowd 2"),
    ("annotations.0.keypoints", [1, {}], "bad 'keypoints'", "[1, {}]"),
    ("annotations.0.ignore", 1, "'ignore' is not supported", "annotations[0]"),
    ("categories", [], "no categories", "categories"),
    ("categories.1.id", 4, "duplicated 'categories' id", "id 4 again"),
    ("categories.0.name", ..., "category without a name", "None"),
]


@pytest.mark.parametrize(("path", "value", "kind", "example"), ERRORS)
def test_a_fault_is_found(folder, path, value, kind, example):
    report = check(folder, plant(path, value))
    (finding,) = [f for f in report.errors if f.kind.startswith(kind)]
    assert example in finding.examples[0] and finding.fix
    expected = FileNotFoundError if kind == "image file missing" else ValueError
    with pytest.raises(expected, match="data.json: "):
        report.raise_if_errors()


@pytest.mark.parametrize(
    ("path", "value", "kind"),
    [
        ("annotations.0.area", ..., "no 'area'"),
        ("annotations.0.area", "50", "no 'area'"),
        ("annotations.0.iscrowd", ..., "no 'iscrowd'"),
        ("annotations.0.id", 0, "annotation id 0"),
    ],
)
def test_what_only_evaluation_needs_is_said_and_provided(folder, path, value, kind):
    data = plant(path, value)
    for split in ("val", None):
        report = check(folder, data, split=split)
        assert report.errors == [] and report.warnings[0].kind.startswith(kind)
        assert "none needed here" in report.warnings[0].fix
    report = check(folder, data, split="train")
    assert report.errors == report.warnings == []
    with pytest.raises(ValueError, match="split='test' is none of"):
        check(folder, data, split="test")


def test_images_alone(folder):
    """No training, no evaluation, but no fault either."""
    data = {**content(), "annotations": []}
    assert "nothing to learn" in check(folder, data, split="train").errors[0].fix
    assert "nothing to compare with" in check(folder, data, split="val").errors[0].fix
    report = check(folder, data)
    assert report.errors == [] and "for prediction" in report.warnings[0].fix


def test_rle_masks_of_objects_are_masks(folder):
    data = plant("annotations.0.segmentation", RLE)  # beside polygons
    report = check(folder, data, split="train")
    assert report.errors == report.warnings == []
    assert "masks of objects: 1 polygon, 1 RLE, 0 none" in str(report)


def test_whole_floats_are_ids(folder):
    data = content()
    for annotation in data["annotations"]:
        annotation |= {key: float(annotation[key]) for key in ("id", "image_id", "category_id")}
    for image in data["images"]:
        image["id"] = float(image["id"])
    report = check(folder, data)
    assert report.errors == report.warnings == []
    assert check(folder, plant("annotations.0.image_id", 1.5)).errors[0].count == 1


def test_ignore_0_ignores_nothing(folder):
    assert check(folder, plant("annotations.0.ignore", 0)).errors == []


def test_the_fullest_image_is_named(folder):
    data = content()
    good = data["annotations"][0]
    data["annotations"] += [{**good, "id": k} for k in range(10, 131)]
    report = check(folder, data)
    assert report.max_objects == {str(folder / "data.json"): 122}
    assert "at most 122 objects an image (image 1)" in str(report)
    assert "NOTE: Detectron2 keeps, and COCO's metric counts, 100" in str(report)
    assert "NOTE" not in str(check(folder, content()))


def test_a_name_that_no_terminal_prints(folder):
    str(check(folder, plant("images.0.file_name", "\ud800\x00"))).encode("utf-8")


def test_boxes_alone_are_enough_where_no_masks_are_needed(folder):
    data = content()
    for annotation in data["annotations"][:2]:
        del annotation["segmentation"]
    assert check(folder, data, need_masks=False).errors == []
    data["annotations"][0]["segmentation"] = []  # as some tools write it
    assert check(folder, data, need_masks=False).errors == []
    (finding,) = check(folder, data).errors
    assert finding.count == 2
    for name in ("custom/coco_json_boxes.py", "COCO/faster_rcnn_hiera_b.py"):
        assert name in finding.fix and (REPO / "configs" / name).is_file()


def test_a_few_bad_boxes_are_a_warning_and_examples_are_cut(folder):
    data = content()
    good = data["annotations"][0]
    data["annotations"] += [{**good, "id": k} for k in range(10, 1010)]
    for annotation in data["annotations"][20:28]:
        annotation["bbox"] = [2, 3, 0, 5]
    report = check(folder, data)
    assert report.errors == []
    (finding,) = report.warnings
    assert (finding.count, len(finding.examples)) == (8, 5)
    assert "... and 3 more" in str(finding)


def test_warnings(folder):
    data = content()
    data["categories"] += [{"id": 10, "name": "fig"}]
    data["images"] += [{"id": 3, "file_name": "a.png", "height": 20, "width": 30}]
    report = check(folder, data)
    assert report.errors == []
    assert {w.kind for w in report.warnings} == {
        "duplicated category name",
        "duplicated file name",
        "category without annotations",
    }


def test_num_classes_must_agree(folder):
    report = check(folder, content(), num_classes=80)
    assert "set model.roi_heads.num_classes=2" in str(report)
    with pytest.raises(ValueError, match="80 classes, the file 2"):
        report.raise_if_errors()


def test_rotated_files_are_compared_upright(folder):
    image = Image.new("RGB", (20, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(folder / "a.jpg", exif=exif)
    assert check(folder, plant("images.0.file_name", "a.jpg")).errors == []


def test_unreadable_files_are_found(folder):
    (folder / "a.png").write_bytes(b"no image")
    assert check(folder, content()).errors[0].kind == "image file cannot be read"


def test_missing_files_raise_file_not_found(folder, tmp_path):
    for json_file, images in ((tmp_path / "no.json", folder), (folder / "data.json", "no-folder")):
        (folder / "data.json").write_text(json.dumps(content()))
        with pytest.raises(FileNotFoundError, match="no"):
            check_coco_json(json_file, images).raise_if_errors()
    (folder / "data.json").write_text(json.dumps(content())[:-9])
    with pytest.raises(ValueError, match="cut short"):
        check_coco_json(folder / "data.json", folder).raise_if_errors()


@pytest.fixture
def register(folder):
    names = []

    def register(name: str, data: dict) -> str:
        path = folder / f"{name}.json"
        path.write_text(json.dumps(data))
        register_coco_json(name, path, folder)
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_train_and_val_must_have_the_same_classes(register):
    train = register("check_train", content())
    val = register("check_val", content())
    check_train_and_val(train, [val], num_classes=2).raise_if_errors()
    swapped = content()
    swapped["categories"] = [{"id": 4, "name": "plum"}, {"id": 9, "name": "fig"}]
    other = register("check_swapped", swapped)
    with pytest.raises(ValueError, match="class 0 is 'fig' in the first and 'plum' here"):
        check_train_and_val([train], [val, other]).raise_if_errors()
    fewer = content()
    fewer["annotations"], fewer["categories"] = fewer["annotations"][:1], fewer["categories"][:1]
    with pytest.raises(ValueError, match="2 and 1 classes"):
        check_train_and_val([train], [register("check_fewer", fewer)]).raise_if_errors()
    with pytest.raises(ValueError, match="no dataset 'nothing' is registered"):
        check_train_and_val([train], ["nothing"])


def test_datasets_without_a_json_are_checked_by_their_dicts(folder):
    annotation = {
        "bbox": [2, 3, 12, 8],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 1,
        "segmentation": [[2, 3, 12, 3, 12, 8, 2, 8]],
    }
    record = {"file_name": str(folder / "a.png"), "image_id": 0, "height": 20, "width": 30}
    good = [{**record, "annotations": [annotation]}]
    assert check_dataset(good, num_classes=2).errors == []
    assert check_dataset(good, num_classes=2, split="val").errors == []
    bad = [{**record, "annotations": [{**annotation, "bbox": [12, 8, 2, 3]}]}]
    assert check_dataset(bad).errors[0].kind == "box of no size"

    DatasetCatalog.register("check_dicts", lambda: bad)
    MetadataCatalog.get("check_dicts").thing_classes = ["fig", "plum"]
    try:
        report = check_train_and_val("check_dicts", "check_dicts", num_classes=2)
        assert [f.file for f in report.errors] == ["check_dicts", "check_dicts"]
    finally:
        DatasetCatalog.remove("check_dicts")
        MetadataCatalog.remove("check_dicts")


@pytest.mark.parametrize("data", ["coco_tiny", "generated_coco"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_has_no_faults(split, data, request):
    root = request.getfixturevalue(data)
    json_file = root / "annotations" / f"instances_{split}2017.json"
    report = check_coco_json(json_file, root / f"{split}2017", num_classes=80, split=split)
    used = {"category without annotations"} if data == "generated_coco" else set()
    assert report.errors == [] and {w.kind for w in report.warnings} == used


@pytest.mark.parametrize("split", ["train", "val"])
def test_nuclei_have_no_faults(split, nuclei):
    json_file = nuclei / "annotations" / f"instances_{split}.json"
    report = check_coco_json(json_file, nuclei / split, num_classes=1, split=split)
    assert report.errors == [] and report.warnings == []


@pytest.mark.parametrize("is_good", [True, False])
def test_tool_prints_the_report_and_exits_1_on_errors(folder, monkeypatch, capsys, is_good):
    data = content() if is_good else plant("annotations.0.segmentation", [])
    (folder / "data.json").write_text(json.dumps(data))
    monkeypatch.setattr("sys.argv", ["check_data.py", str(folder / "data.json"), str(folder)])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(REPO / "tools" / "check_data.py"), run_name="__main__")
    assert exit_.value.code == (0 if is_good else 1)
    printed = capsys.readouterr().out
    assert "2 images" in printed and ("ERROR" in printed) == (not is_good)


def test_kinds_of_images_are_said_and_stacks_need_a_page(tmp_path):
    """16 bits are scaled and stacks refused: what the reader will do is told before the run."""
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16
    Image.fromarray(deep).save(tmp_path / "0.png")
    pages = [Image.fromarray(np.full((16, 16), k, np.uint8)) for k in range(3)]
    pages[0].save(tmp_path / "1.tif", save_all=True, append_images=pages[1:])
    size = {"height": 16, "width": 16}
    content = {
        "images": [
            {"id": 1, "file_name": "0.png", **size},
            {"id": 2, "file_name": "1.tif", **size},
        ],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1, "bbox": [2, 2, 8, 8], "area": 64,
             "iscrowd": 0, "segmentation": [[2, 2, 10, 2, 10, 10, 2, 10]]}
            for k in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }  # fmt: skip
    report = check_coco_content(content, "cells.json", str(tmp_path))
    assert "16-bit grey, values 0 to 4080 (12 bits) (1)" in str(report)
    assert [finding.kind for finding in report.errors] == ["files that hold several images"]
    assert "dataloader.page=0" in str(report.errors[0])
    assert check_coco_content(content, "cells.json", str(tmp_path), page=1).errors == []
