"""The datasets of a run against its config: masks or boxes alone, and how many objects."""

import json

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf

from hiera_det.config import load_config
from hiera_det.data.coco_json import max_objects, num_proposals
from hiera_det.data.run_check import check_run, needs_masks
from hiera_det.engine import check_data


def write_files(folder, num_objects: int, with_masks: bool) -> list[str]:
    """A training and a validation file of one image, as overrides of configs/custom."""
    cv2.imwrite(str(folder / "a.png"), np.zeros((400, 400, 3), np.uint8))
    overrides = []
    for split, count in (("train", 3), ("val", num_objects)):
        annotations = []
        for k in range(count):
            x, y = 20 * (k % 19), 17 * (k // 19)
            polygon = [x, y, x + 9, y, x + 9, y + 9]
            annotations.append({"id": k + 1, "image_id": 1, "category_id": 1})
            annotations[-1] |= {"bbox": [x, y, 9, 9], "area": 81, "iscrowd": 0}
            annotations[-1] |= {"segmentation": [polygon]} if with_masks else {}
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 400, "width": 400}],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "fig"}],
        }
        path = folder / f"{split}.json"
        path.write_text(json.dumps(content))
        overrides += [f"dataloader.{split}_json={path}", f"dataloader.{split}_images={folder}"]
    return overrides


@pytest.fixture(autouse=True)
def registered():
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_boxes_alone_pass_with_the_boxes_config(tmp_path):
    files = write_files(tmp_path, 5, with_masks=False)
    cfg = load_config("custom/coco_json_boxes.py", files)
    assert not needs_masks(cfg)
    report = check_run(cfg)
    assert report.errors == report.warnings == []
    check_data(cfg, with_train=True)


def test_boxes_alone_are_sent_to_the_boxes_config(tmp_path):
    files = write_files(tmp_path, 5, with_masks=False)
    cfg = load_config("custom/coco_json.py", files)
    assert needs_masks(cfg)
    with pytest.raises(ValueError, match="custom/coco_json_boxes.py"):
        check_data(cfg, with_train=True)
    with pytest.raises(ValueError, match="custom/coco_json_boxes.py"):
        check_data(cfg, with_train=False)


def test_half_of_a_way_to_boxes_alone_is_named(tmp_path):
    files = write_files(tmp_path, 5, with_masks=False)
    cfg = load_config("custom/coco_json.py", [*files, "model.roi_heads.mask_in_features=null"])
    with pytest.raises(ValueError, match=r"set dataloader.evaluator.tasks=\[bbox\]"):
        check_data(cfg, with_train=True)
    cfg.dataloader.evaluator.tasks = ["bbox"]
    report = check_run(cfg)
    assert report.errors == []
    assert "dataloader.train.mapper.use_instance_mask is True" in report.warnings[0].examples[0]
    cfg = load_config("custom/coco_json.py", files)
    cfg.dataloader.train.mapper.update(use_instance_mask=False, recompute_boxes=False)
    kinds = {finding.kind for finding in check_run(cfg).errors}
    assert kinds == {"object without a mask", "model, mapper and evaluation disagree on masks"}


CAPS = {
    "model.roi_heads.box_predictor.test_topk_per_image",
    "model.proposal_generator.post_nms_topk.1",
    "dataloader.evaluator.max_dets_per_image",
}


def test_own_data_take_the_caps_from_the_files(tmp_path):
    files = write_files(tmp_path, 369, with_masks=True)
    cfg = load_config("custom/coco_json.py", files)
    assert {OmegaConf.select(cfg, key) for key in CAPS} == {400, 1600}
    assert check_run(cfg).warnings == []
    files = write_files(tmp_path, 99, with_masks=True)
    cfg = load_config("custom/coco_json.py", files)
    assert {OmegaConf.select(cfg, key) for key in CAPS} == {100, 1000}


@pytest.mark.parametrize("cascade", [False, True])
def test_caps_below_the_data_are_warned_of(tmp_path, cascade):
    files = write_files(tmp_path, 369, with_masks=True)
    own = load_config("custom/coco_json.py", files)
    name = "cascade_mask_rcnn_hiera_t" if cascade else "mask_rcnn_hiera_t"
    cfg = load_config(f"COCO/{name}.py", ["model.roi_heads.num_classes=1"])
    for split in ("train", "test"):
        cfg.dataloader[split].dataset.names = own.dataloader[split].dataset.names
    cfg.model.proposal_generator.post_nms_topk = (1000, 300)
    report = check_run(cfg)
    assert report.errors == []
    texts = [text for finding in report.warnings for text in finding.examples]
    last = "box_predictors.2" if cascade else "box_predictor"
    expected = {key.replace("box_predictor", last) for key in CAPS}
    caps = {key: 300 if "topk.1" in key else 100 for key in expected}
    assert set(texts) == {f"369 objects, {key} is {cap}" for key, cap in caps.items()}
    for key in expected:
        OmegaConf.update(cfg, key.removesuffix(".1"), [1000, 400] if "topk.1" in key else 400)
    assert check_run(cfg).warnings == []


def test_counts_of_the_fullest_image(tmp_path):
    for count, objects, proposals in [(5, 100, 1000), (101, 200, 1000), (360, 400, 1600)]:
        write_files(tmp_path, count, with_masks=False)
        files = [tmp_path / f"{split}.json" for split in ("train", "val")]
        assert (max_objects(*files), num_proposals(*files)) == (objects, proposals)
        assert max_objects(files[0]) == 100
    content = json.loads(files[1].read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    files[1].write_text(json.dumps(content))
    assert max_objects(*files) == 100


def test_a_config_without_datasets_is_not_checked():
    cfg = load_config("COCO/mask_rcnn_hiera_t.py")
    cfg.dataloader.train = {}
    assert check_run(cfg) is None
