"""Conventions of the evaluators and of the inference loop."""

import json
import logging
import math
from collections import OrderedDict

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
    print_csv_format,
)
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, BoxMode, Instances, polygons_to_bitmask

METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl"]


def predictions(size, boxes, scores, classes, masks=None) -> Instances:
    """Arrays -> what a model returns."""
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor(np.array(boxes), dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    if masks is not None:
        instances.pred_masks = torch.from_numpy(np.stack(masks).astype(bool))
    return instances


def feed(evaluator: COCOEvaluator, pairs) -> COCOEvaluator:
    """Pairs of image id and predictions -> the evaluator, ready to evaluate."""
    evaluator.reset()
    for image_id, instances in pairs:
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator


def mask_of(segmentation, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, dict):
        return mask_util.decode(segmentation).astype(bool)
    return polygons_to_bitmask([np.array(p) for p in segmentation], height, width).astype(bool)


def ground_truth_as_predictions(name: str):
    """Every object that is no crowd, with score 1."""
    for record in DatasetCatalog.get(name):
        size = record["height"], record["width"]
        annos = [a for a in record["annotations"] if not a["iscrowd"]]
        if annos:
            boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annos]
            classes = [a["category_id"] for a in annos]
            masks = [mask_of(a["segmentation"], *size) for a in annos]
            yield record["image_id"], predictions(size, boxes, [1.0] * len(annos), classes, masks)


def jittered_ground_truth(name: str):
    """The predictions of the recorded results: shifted boxes and masks, one class in five
    replaced, a detection within each crowd, two detections of nothing in each image."""
    for record in DatasetCatalog.get(name):
        random = np.random.RandomState(1000 + record["image_id"])
        boxes, scores, classes, masks = [], [], [], []
        for anno in record["annotations"]:
            if anno["iscrowd"]:
                mask = np.zeros((256, 256), bool)
                mask[205:235, 20:60] = True
                box, score, category = [20, 205, 60, 235], 0.6, 0
            else:
                box = BoxMode.convert(anno["bbox"], anno["bbox_mode"], BoxMode.XYXY_ABS)
                box = np.array(box) + random.uniform(-6, 6, 4)
                shift_x, shift_y = random.randint(-5, 6, 2)
                score = random.uniform(0.3, 1.0)
                category = anno["category_id"]
                if random.rand() >= 0.8:
                    category = (category + 1) % 3
                mask = mask_of(anno["segmentation"], 256, 256)
                mask = np.roll(mask, (shift_y, shift_x), (0, 1))
            boxes.append(box)
            scores.append(score)
            classes.append(category)
            masks.append(mask)
        for _ in range(2):
            x, y = random.uniform(0, 200, 2)
            mask = np.zeros((256, 256), bool)
            mask[int(y) : int(y) + 40, int(x) : int(x) + 40] = True
            boxes.append([x, y, x + 40, y + 40])
            scores.append(random.uniform(0.1, 0.5))
            classes.append(random.randint(3))
            masks.append(mask)
        yield record["image_id"], predictions((256, 256), boxes, scores, classes, masks)


def shifted_ground_truth(name: str):
    """Ground truth that is a few pixels off, with random scores."""
    random = np.random.RandomState(0)
    for image_id, instances in ground_truth_as_predictions(name):
        shift_x, shift_y = random.randint(-6, 7, 2)
        instances.pred_boxes.tensor += torch.tensor([shift_x, shift_y] * 2)
        instances.pred_masks = instances.pred_masks.roll((shift_y, shift_x), dims=(1, 2))
        instances.scores = torch.from_numpy(random.uniform(size=len(instances)))
        yield image_id, instances


@pytest.fixture()
def one_object(tmp_path, request):
    """Register a 100 x 100 image with one object of two classes' set; returns the name."""

    def register(bbox, area, segmentation) -> str:
        anno = dict(id=1, image_id=7, category_id=4, bbox=bbox, area=area, iscrowd=0)
        content = dict(
            info={},
            images=[dict(id=7, file_name="a.png", width=100, height=100)],
            annotations=[dict(anno, segmentation=segmentation)],
            categories=[dict(id=2, name="cat"), dict(id=4, name="dog")],
        )
        path = tmp_path / "one.json"
        path.write_text(json.dumps(content))
        name = f"one_object_{request.node.name}"
        register_coco_instances(name, {}, str(path), "")
        DatasetCatalog.get(name)
        request.addfinalizer(lambda: (DatasetCatalog.remove(name), MetadataCatalog.remove(name)))
        return name

    return register


SQUARE = dict(bbox=[10, 10, 50, 50], area=2500, segmentation=[[10, 10, 60, 10, 60, 60, 10, 60]])


# ---------------------------------------------------------------- COCOEvaluator, numbers


def test_numbers_are_the_recorded_ones(toy, golden_json):
    """AP in percent, nan where there is no ground truth; AP-<class> for every class; crowds match
    any number of detections, which then do not count."""
    evaluator = feed(COCOEvaluator(toy("val")), jittered_ground_truth(toy("val")))
    results = evaluator.evaluate()
    assert list(results) == ["bbox", "segm"]
    for task in results:
        expected = golden_json[f"eval/{task}"]
        assert list(results[task]) == [*METRICS, "AP-disc", "AP-box", "AP-tri"]
        for metric, value in results[task].items():
            wanted = math.nan if expected[metric] is None else expected[metric]
            assert value == pytest.approx(wanted, abs=1e-6, nan_ok=True), (task, metric)


def test_ground_truth_as_predictions_gives_100(toy):
    """What is exactly right scores 100 at every threshold, of boxes and of masks."""
    evaluator = feed(COCOEvaluator(toy("val")), ground_truth_as_predictions(toy("val")))
    for metrics in evaluator.evaluate().values():
        assert metrics["AP"] == metrics["AP75"] == pytest.approx(100)


def test_ground_truth_as_predictions_gives_100_on_real_images(coco_tiny):
    """80 real images, all 80 classes, crowds among them."""
    name = coco_tiny("val")
    evaluator = feed(COCOEvaluator(name), ground_truth_as_predictions(name))
    for metrics in evaluator.evaluate().values():
        assert len(metrics) == 6 + 80
        np.testing.assert_allclose(list(metrics.values()), 100)


def test_ap_is_the_mean_over_ten_thresholds(one_object):
    """A box of IoU 0.72 is right at 0.50, 0.55, ..., 0.70: AP 50, AP50 100, AP75 0. The object is
    of medium size, and its class comes second."""
    name = one_object(**SQUARE)
    instances = predictions((100, 100), [[10, 10, 60, 46]], [0.5], [1])
    results = feed(COCOEvaluator(name), [(7, instances)]).evaluate()
    expected = dict(AP=50, AP50=100, AP75=0, APs=math.nan, APm=50, APl=math.nan)
    expected.update({"AP-cat": math.nan, "AP-dog": 50})
    assert results["bbox"] == pytest.approx(expected, nan_ok=True)


def test_mask_ap_takes_the_area_of_the_mask(one_object):
    """A wrong mask of 600 pixels in a box of 2500 is small, as the object is, and so counts:
    it comes first by its score, and halves APs. By the area of its box it would be ignored."""
    mask = np.zeros((100, 100), bool)
    mask[10:22, 10:60] = True
    name = one_object([10, 10, 50, 12], 600, [[10, 10, 60, 10, 60, 22, 10, 22]])
    wrong = np.zeros((100, 100), bool)
    wrong[50:100, 50:53] = wrong[50:59, 50:100] = True  # L of 573 pixels
    boxes = [[50, 50, 100, 100], [10, 10, 60, 22]]
    instances = predictions((100, 100), boxes, [0.9, 0.8], [1, 1], [wrong, mask])
    results = feed(COCOEvaluator(name), [(7, instances)]).evaluate()
    assert results["segm"]["APs"] == pytest.approx(50)
    assert results["bbox"]["APs"] == pytest.approx(100)  # a box of 2500 is not small


def test_only_the_best_detections_count(one_object):
    """max_dets_per_image keeps the highest scores of an image and class; 100 by default."""
    name = one_object(**SQUARE)
    boxes = [[70, 70, 80, 80]] * 11 + [[10, 10, 60, 60]]
    instances = predictions((100, 100), boxes, [0.9] * 11 + [0.8], [1] * 12)
    for limit, expected in ((None, 100 / 12), (12, 100 / 12), (11, 0)):
        evaluator = COCOEvaluator(name, max_dets_per_image=limit)
        results = feed(evaluator, [(7, instances)]).evaluate()
        assert results["bbox"]["AP"] == pytest.approx(expected)


def test_evaluate_some_images(toy):
    """img_ids restricts the score to those images."""
    name = toy("val")
    pairs = dict(ground_truth_as_predictions(name))
    evaluator = COCOEvaluator(name)
    first = list(pairs.items())[:3]
    assert feed(evaluator, first).evaluate()["bbox"]["AP"] < 99
    results = feed(evaluator, first).evaluate(img_ids=list(pairs)[:3])
    assert results["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.lite_only
@pytest.mark.parametrize(
    ("dataset", "source"),
    [
        ("toy", jittered_ground_truth),
        ("toy", ground_truth_as_predictions),
        ("coco_tiny", shifted_ground_truth),
    ],
)
def test_fast_implementation_gives_the_same_numbers(dataset, source, request):
    """faster_coco_eval, used where it is installed, and pycocotools."""
    pytest.importorskip("faster_coco_eval")
    name = request.getfixturevalue(dataset)("val")
    fast, plain = (
        feed(COCOEvaluator(name, use_fast_impl=fast), source(name)).evaluate()
        for fast in (True, False)
    )
    assert fast.keys() == plain.keys()
    for task in plain:
        assert fast[task] == pytest.approx(plain[task], abs=1e-9, nan_ok=True)


# ---------------------------------------------------------------- COCOEvaluator, files and tasks


def test_results_in_coco_format(toy, golden_json):
    """XYWH boxes, scores, RLE with a str; the class is still 0..K-1."""
    image_id, instances = next(jittered_ground_truth(toy("val")))
    (expected,) = golden_json["eval/json_sample"]
    result = instances_to_coco_json(instances, image_id)[0]
    assert result.keys() == expected.keys()
    assert result["bbox"] == pytest.approx(expected["bbox"], abs=1e-4)
    assert result["score"] == pytest.approx(expected["score"], abs=1e-6)
    for key in ("image_id", "category_id", "segmentation"):
        assert result[key] == expected[key]
    assert instances_to_coco_json(instances[:0], image_id) == []


def test_written_files(toy, golden_json, tmp_path):
    """coco_instances_results.json has the dataset's category ids, instances_predictions.pth has
    0..K-1 by image and loads with weights_only=True."""
    evaluator = COCOEvaluator(toy("val"), output_dir=str(tmp_path / "inference"))
    pairs = list(jittered_ground_truth(toy("val")))
    feed(evaluator, pairs).evaluate()
    expected = golden_json["eval/json_file"]
    assert sorted(p.name for p in (tmp_path / "inference").iterdir()) == expected["files"]
    results = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    assert len(results) == expected["n"]
    assert sorted(results[0]) == expected["keys"]
    assert sorted({r["category_id"] for r in results}) == expected["cats"]

    path = tmp_path / "inference" / "instances_predictions.pth"
    by_image = torch.load(path, weights_only=True)
    assert [p["image_id"] for p in by_image] == [image_id for image_id, _ in pairs]
    assert {r["category_id"] for p in by_image for r in p["instances"]} == {0, 1, 2}
    assert by_image[0]["instances"][0]["bbox"] == results[0]["bbox"]


def test_no_prediction_at_all(toy, golden_json):
    """Tasks are those of the predictions; without any only "bbox" is reported, as nan."""
    empty = [(image_id, p[:0]) for image_id, p in jittered_ground_truth(toy("val"))]
    results = feed(COCOEvaluator(toy("val")), empty).evaluate()
    assert {task: set(m) for task, m in results.items()} == {
        task: set(m) for task, m in golden_json["eval/empty"].items()
    }
    assert all(math.isnan(v) for v in results["bbox"].values())


def test_no_prediction_at_all_for_named_tasks(toy):
    """Tasks that are named are reported in any case."""
    empty = [(image_id, p[:0]) for image_id, p in jittered_ground_truth(toy("val"))]
    results = feed(COCOEvaluator(toy("val"), tasks=("bbox", "segm")), empty).evaluate()
    assert list(results) == ["bbox", "segm"]
    for metrics in results.values():
        assert list(metrics) == METRICS
        assert all(math.isnan(v) for v in metrics.values())


def test_named_tasks_only(toy):
    """tasks=("bbox",) leaves the masks alone."""
    evaluator = COCOEvaluator(toy("val"), tasks=("bbox",))
    assert list(feed(evaluator, jittered_ground_truth(toy("val"))).evaluate()) == ["bbox"]


def test_nothing_processed_gives_an_empty_result(toy):
    """An evaluator that has seen no image warns and reports nothing; reset forgets."""
    evaluator = feed(COCOEvaluator(toy("val")), jittered_ground_truth(toy("val")))
    evaluator.reset()
    assert evaluator.evaluate() == {}


@pytest.mark.lite_only
def test_options_that_are_not_there_raise(toy):
    with pytest.raises(NotImplementedError, match="install Detectron2"):
        COCOEvaluator(toy("val"), tasks=("keypoints",))
    with pytest.raises(NotImplementedError, match="install Detectron2"):
        COCOEvaluator(toy("val"), kpt_oks_sigmas=(0.1,))
    with pytest.raises(ValueError, match="sequence of 'bbox' and 'segm'.*got 'bbox'"):
        COCOEvaluator(toy("val"), tasks="bbox")
    with pytest.raises(ValueError, match="has no json_file"):
        COCOEvaluator("test_evaluation_unknown")


# ---------------------------------------------------------------- inference loop


class Recorder(DatasetEvaluator):
    """Notes what the loop does."""

    def __init__(self, result):
        self.result, self.calls = result, []

    def reset(self):
        self.calls.append("reset")

    def process(self, inputs, outputs):
        self.calls.append((inputs, outputs))

    def evaluate(self):
        self.calls.append("evaluate")
        return self.result


class Doubler(torch.nn.Module):
    def forward(self, inputs):
        assert not self.training and not torch.is_grad_enabled()
        return [2 * x for x in inputs]


def test_inference_feeds_the_evaluator():
    """reset, then every batch with its outputs, then evaluate; the model is in eval mode without
    gradients meanwhile, and back in training mode afterwards."""
    model, evaluator = Doubler().train(), Recorder({"bbox": {"AP": 1.0}})
    results = inference_on_dataset(model, [[1, 2], [3]], evaluator)
    assert results == {"bbox": {"AP": 1.0}}
    assert evaluator.calls == ["reset", ([1, 2], [2, 4]), ([3], [6]), "evaluate"]
    assert model.training


def test_inference_results_are_a_dict():
    """None from an evaluator (not the main process) becomes {}; no evaluator is allowed."""
    assert inference_on_dataset(Doubler(), [[1]], Recorder(None)) == {}
    assert inference_on_dataset(lambda inputs: inputs, [[1]], None) == {}


def test_inference_with_several_evaluators():
    """A list is one evaluator whose results are merged; the same task twice is an error."""
    first, second = Recorder({"bbox": 1}), Recorder({"segm": 2})
    results = inference_on_dataset(Doubler(), [[1]], [first, second])
    assert results == OrderedDict(bbox=1, segm=2)
    with pytest.raises((ValueError, AssertionError), match="bbox"):
        DatasetEvaluators([first, Recorder({"bbox": 3})]).evaluate()


def test_inference_callbacks():
    """on_start, before and after each batch, on_end."""
    calls = []
    names = ("on_start", "before_inference", "after_inference", "on_end")
    callbacks = {name: lambda name=name: calls.append(name) for name in names}
    inference_on_dataset(Doubler(), [[1], [2]], None, callbacks=callbacks)
    assert calls == ["on_start", *["before_inference", "after_inference"] * 2, "on_end"]


@pytest.mark.parametrize("training", [True, False])
def test_inference_context_restores_the_mode(training):
    """eval inside, as before outside."""
    model = torch.nn.Sequential(torch.nn.Dropout()).train(training)
    with inference_context(model):
        assert not model.training and not model[0].training
    assert model.training is training and model[0].training is training


# ---------------------------------------------------------------- results as text


def test_csv_format(caplog):
    """Three lines per task; metrics of single classes, which have a "-", are left out."""
    results = OrderedDict(bbox={"AP": 1.23456, "AP-cat": 3.0, "AP50": 2.0})
    with caplog.at_level(logging.INFO):
        print_csv_format(results)
    lines = [r.getMessage() for r in caplog.records]
    assert lines == ["copypaste: Task: bbox", "copypaste: AP,AP50", "copypaste: 1.2346,2.0000"]
