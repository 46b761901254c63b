"""Scoring against files that lack what COCO's metric reads, and of many objects an image."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator as Detectron2sEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from hiera_det.data.evaluator import COCOEvaluator

SIZE = 200


def content(num_objects: int) -> dict:
    """One image, polygons of all three COCO sizes, every third predicted a little off."""
    rng = np.random.default_rng(0)
    annotations = []
    for k in range(num_objects):
        side = (6, 12, 40, 100)[k % 4]
        x, y = (int(v) for v in rng.integers(0, SIZE - side, 2))
        polygon = [x, y, x + side, y, x + side, y + side, x, y + side]
        rle = mask_util.merge(mask_util.frPyObjects([polygon], SIZE, SIZE))
        annotations.append(
            {
                "id": k + 1,
                "image_id": 7,
                "category_id": (4, 9)[k % 2],
                "bbox": [x, y, side, side],
                "area": float(mask_util.area(rle)),
                "iscrowd": 0,
                "segmentation": [polygon],
            }
        )
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": SIZE, "width": SIZE}],
        "annotations": annotations,
        "categories": [{"id": 4, "name": "fig"}, {"id": 9, "name": "plum"}],
    }


def predictions(data: dict) -> Instances:
    """Half of them off, so that AP is neither 0 nor 100."""
    boxes = torch.tensor([a["bbox"] for a in data["annotations"]], dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]  # XYWH -> XYXY
    boxes[::2, :2] += 2
    instances = Instances((SIZE, SIZE))
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.linspace(1, 0.5, len(boxes))
    instances.pred_classes = torch.tensor([int(k % 2) for k in range(len(boxes))])
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    instances.pred_masks = masks
    return instances


@pytest.fixture
def score(tmp_path):
    names = []

    def score(
        data: dict, instances: Instances, evaluator=COCOEvaluator, tasks=("bbox", "segm"), **kwargs
    ) -> dict:
        name = f"test_evaluator_{len(names)}"
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(data))
        register_coco_instances(name, {}, str(path), str(tmp_path))
        names.append(name)
        (record,) = DatasetCatalog.get(name)
        scorer = evaluator(name, tasks, False, **kwargs)
        scorer.reset()
        scorer.process([record], [{"instances": instances}])
        assert path.read_text() == json.dumps(data)  # the user's file stays
        return scorer.evaluate()

    yield score
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="module")
def data() -> dict:
    return content(40)


@pytest.fixture
def expected(data, score) -> dict:
    result = score(data, predictions(data), Detectron2sEvaluator)
    assert 20 < result["bbox"]["AP"] < 95 and 20 < result["segm"]["AP"] < 95
    return result


def test_a_complete_file_scores_as_with_detectron2(data, expected, score):
    assert score(data, predictions(data)) == expected


@pytest.mark.parametrize(
    "damage",
    [
        lambda a: a.pop("area"),
        lambda a: a.update(area=None),
        lambda a: a.pop("iscrowd"),
        lambda a: a.update(id=a["id"] - 1),  # from 0, COCO's "no match"
        lambda a: a.update(id=float(a["id"])),
        lambda a: a.update(image_id=7.0, category_id=float(a["category_id"])),
    ],
)
def test_what_is_missing_is_provided(data, expected, score, damage):
    broken = json.loads(json.dumps(data))
    for annotation in broken["annotations"]:
        damage(annotation)
    assert score(broken, predictions(data)) == expected


def test_areas_of_rle_masks_and_of_boxes(data, expected, score):
    broken = json.loads(json.dumps(data))
    for k, annotation in enumerate(broken["annotations"]):
        del annotation["area"]
        rle = mask_util.merge(mask_util.frPyObjects(annotation["segmentation"], SIZE, SIZE))
        if k % 2:
            annotation["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
        else:
            mask = mask_util.decode(rle).flatten(order="F")  # (H, W) -> (W * H,), column by column
            ends = np.flatnonzero(np.diff(mask)) + 1
            counts = np.diff([0, *ends, len(mask)]).tolist()
            counts = [0, *counts] if mask[0] else counts
            annotation["segmentation"] = {"size": rle["size"], "counts": counts}
    assert score(broken, predictions(data)) == expected
    for annotation in broken["annotations"]:
        del annotation["segmentation"]
    instances = predictions(data)
    instances.remove("pred_masks")
    assert score(broken, instances, tasks=("bbox",)) == {"bbox": expected["bbox"]}


def test_images_with_floats_as_ids(data, expected, score):
    floats = json.loads(json.dumps(data))
    floats["images"][0]["id"] = 7.0
    assert score(floats, predictions(data)) == expected


def test_images_with_strings_as_ids(data, expected, score):
    named = json.loads(json.dumps(data))
    named["images"][0]["id"] = "seven"
    for annotation in named["annotations"]:
        annotation["image_id"] = "seven"
    assert score(named, predictions(data)) == expected


def test_more_than_100_objects_count(score):
    """A perfect model, 150 objects of each class: by default 100 of each count."""
    data = content(300)
    instances = predictions(data)
    truth = torch.tensor([a["bbox"] for a in data["annotations"]], dtype=torch.float32)
    truth[:, 2:] += truth[:, :2]  # XYWH -> XYXY
    instances.pred_boxes = Boxes(truth)
    capped = score(data, instances)["bbox"]
    assert 60 < capped["AP"] < 70
    full = score(data, instances, max_dets_per_image=300)["bbox"]
    assert {key: full[key] for key in ("AP", "AP50", "AP75", "APs", "APm", "APl")} == dict.fromkeys(
        ("AP", "AP50", "AP75", "APs", "APm", "APl"), pytest.approx(100)
    )
