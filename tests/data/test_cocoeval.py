"""The numbers of hotcoco and faster-coco-eval against pycocotools', and which of them is chosen."""

import contextlib
import copy
import importlib
import io
import json
import logging
import os
import signal
import time

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hiera_det.data import cocoeval
from hiera_det.data.cocoeval import HotcocoEval, fastest_cocoeval, has_plain_ids, make_cocoeval
from hiera_det.data.evaluator import COCOEvaluator

FAST = ("hotcoco", "faster_coco_eval")


def indexed(content: dict) -> COCO:
    coco = COCO()
    coco.dataset = copy.deepcopy(content)
    coco.dataset.setdefault("info", {})
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def noisy_detections(content: dict, seed: int = 0) -> list[dict]:
    """None to two detections of each object: shifted, some of another class, scores with ties."""
    rng = np.random.default_rng(seed)
    coco, categories = indexed(content), [c["id"] for c in content["categories"]]
    results = []
    for annotation in content["annotations"]:
        mask = coco.annToMask(annotation)
        for _ in range(int(rng.integers(0, 3))):
            shift = tuple(int(v) for v in rng.integers(-4, 5, 2))
            rle = mask_util.encode(np.asfortranarray(np.roll(mask, shift, (0, 1))))
            box = mask_util.toBbox(rle) + rng.normal(0, 2, 4)
            is_right = rng.random() < 0.8
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"] if is_right else categories[0],
                    "bbox": [*box[:2].tolist(), *np.maximum(box[2:], 1).tolist()],
                    "score": round(float(rng.random()), 1),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
    return results


def scored(implementation, content: dict, results: list[dict], task: str, limit: int = 100):
    """The evaluator, after `summarize`."""
    results = [{k: v for k, v in r.items() if task == "bbox" or k != "bbox"} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = indexed(content)
        evaluator = implementation(truth, truth.loadRes(results), task)
        evaluator.params.maxDets = [1, 10, limit]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def implementation_of(name: str):
    module = pytest.importorskip(name)
    return HotcocoEval if name == "hotcoco" else module.COCOeval_faster


@pytest.fixture(scope="module")
def real(coco_tiny) -> dict:
    """80 images of COCO, 80 classes, 11 crowds."""
    return json.loads((coco_tiny / "annotations/instances_val2017.json").read_text())


@pytest.fixture(scope="module")
def content(generated_coco) -> dict:
    """6 generated images, 5 classes, every ninth object a crowd."""
    content = json.loads((generated_coco / "annotations/instances_val2017.json").read_text())
    content["categories"] = [{"id": k, "name": f"class {k}"} for k in (2, 3, 5, 8, 13)]
    for k, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = content["categories"][k % 5]["id"]
        annotation["iscrowd"] = int(k % 9 == 0)
    return content


CASES = {
    "as they are": lambda content, results: (content, results),
    "no ground truth": lambda content, results: (content | {"annotations": []}, results),
    "crowds alone": lambda content, results: (
        content | {"annotations": [a for a in content["annotations"] if a["iscrowd"]]},
        results,
    ),
    "one detection": lambda content, results: (content, results[:1]),
    "one score": lambda content, results: (content, [r | {"score": 0.5} for r in results]),
    "areas of the annotators": lambda content, results: (
        content | {"annotations": [a | {"area": 1.6 * a["area"]} for a in content["annotations"]]},
        results,
    ),
    "empty boxes": lambda content, results: (
        content,
        [r | {"bbox": [3, 3, 0, 0]} for r in results],
    ),
}


def assert_same(found, expected) -> None:
    """Of each class, size and limit, and COCO's 12 numbers."""
    for key in ("precision", "recall", "scores"):
        torch.testing.assert_close(
            torch.tensor(found.eval[key]), torch.tensor(expected.eval[key]), atol=1e-9, rtol=0
        )
    numbers = torch.tensor(np.asarray(found.stats, dtype=float))[:12]
    torch.testing.assert_close(numbers, torch.tensor(expected.stats), atol=1e-9, rtol=0)
    assert len(numbers) == 12


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("case", CASES)
def test_all_numbers_are_those_of_pycocotools(content, task, case):
    truth, results = CASES[case](content, noisy_detections(content))
    expected = scored(COCOeval, truth, results, task)
    for name in FAST:
        assert_same(scored(implementation_of(name), truth, results, task), expected)
    if case == "as they are":
        assert 0.1 < expected.stats[0] < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_all_numbers_on_coco(real, task):
    assert sum(annotation["iscrowd"] for annotation in real["annotations"]) == 11
    results = noisy_detections(real)
    expected = scored(COCOeval, real, results, task)
    assert 0.2 < expected.stats[0] < 0.8
    for name in FAST:
        assert_same(scored(implementation_of(name), real, results, task), expected)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("limit", [10, 200])
def test_other_limits_of_detections(content, name, limit):
    """200 detections an image are looked at by both, and half of them are on one image."""
    implementation = implementation_of(name)
    image = content["annotations"][0]["image_id"]
    results = noisy_detections(content)
    results += [r | {"image_id": image} for r in noisy_detections(content, 1)]
    expected = scored(COCOeval, content, results, "bbox", limit)
    found = scored(implementation, content, results, "bbox", limit)
    for key in ("precision", "recall"):
        torch.testing.assert_close(
            torch.tensor(found.eval[key]), torch.tensor(expected.eval[key]), atol=1e-9, rtol=0
        )


# -------------------------------------------------------------------- through the evaluator
@pytest.fixture
def evaluate(tmp_path):
    """Scores results with `COCOEvaluator` as a run does; a dict of two tasks."""
    names = []

    def evaluate(content: dict, results: list[dict], **options) -> dict:
        names.append(f"test_cocoeval_{len(names)}")
        path = tmp_path / f"{names[-1]}.json"
        path.write_text(json.dumps(content))
        register_coco_instances(names[-1], {}, str(path), str(tmp_path))
        DatasetCatalog.get(names[-1])  # fills in the metadata
        evaluator = COCOEvaluator(names[-1], ("bbox", "segm"), False, **options)
        evaluator.reset()
        numbers = {c["id"]: k for k, c in enumerate(content["categories"])}
        for image in content["images"]:
            own = [r for r in results if r["image_id"] == image["id"]]
            instances = Instances((image["height"], image["width"]))
            boxes = torch.tensor([r["bbox"] for r in own]).reshape(-1, 4)  # (N, 4)
            boxes[:, 2:] += boxes[:, :2]  # XYWH -> XYXY
            instances.pred_boxes = Boxes(boxes)
            instances.scores = torch.tensor([r["score"] for r in own])
            instances.pred_classes = torch.tensor([numbers[r["category_id"]] for r in own])
            masks = [torch.from_numpy(mask_util.decode(r["segmentation"])).bool() for r in own]
            size = instances.image_size
            instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, *size).bool()
            record = {"image_id": image["id"], "file_name": ""}
            evaluator.process([record], [{"instances": instances}])
        return evaluator.evaluate()

    yield evaluate
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def installed(monkeypatch):
    """Makes as if only these of hotcoco and faster-coco-eval were there."""

    def installed(*modules: str) -> None:
        for module in modules:
            pytest.importorskip(module)
        monkeypatch.setattr(cocoeval, "_is_installed", lambda module: module in modules)

    return installed


@pytest.mark.parametrize("modules", [("hotcoco", "faster_coco_eval"), ("faster_coco_eval",)])
@pytest.mark.parametrize("limit", [None, 200])
def test_the_first_that_is_installed_scores(content, evaluate, installed, modules, limit, caplog):
    results = noisy_detections(content)
    expected = evaluate(content, results, use_fast_impl=False, max_dets_per_image=limit)
    installed(*modules)
    caplog.set_level(logging.INFO, logger="hiera_det")
    caplog.clear()
    found = evaluate(content, results, max_dets_per_image=limit)
    name = modules[0].replace("_", "-")
    lines = [line for line in caplog.messages if "COCO evaluation" in line]
    assert lines == [f"COCO evaluation by {name} {importlib.metadata.version(name)}"]
    assert found.keys() == expected.keys() == {"bbox", "segm"}
    for task in expected:
        assert found[task].keys() == expected[task].keys()
        assert len(found[task]) == 6 + 5
        for key, value in expected[task].items():
            assert found[task][key] == pytest.approx(value, abs=1e-9, nan_ok=True), (task, key)
    assert 5 < expected["bbox"]["AP"] < 95


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (str, {}, "the others take no ids but whole numbers from 0"),
        (lambda k: k - 10**6, {}, "the others take no ids but whole numbers from 0"),
        (lambda k: k, {"use_fast_impl": False}, "use_fast_impl is False"),
    ],
)
def test_what_only_pycocotools_takes(content, evaluate, change, options, reason, caplog):
    content = copy.deepcopy(content)
    results = noisy_detections(content)
    expected = evaluate(content, results)
    for image in content["images"]:
        image["id"] = change(image["id"])
    for entry in content["annotations"] + results:
        entry["image_id"] = change(entry["image_id"])
    caplog.set_level(logging.INFO, logger="hiera_det")
    caplog.clear()
    found = evaluate(content, results, **options)
    version = importlib.metadata.version("pycocotools")
    assert f"COCO evaluation by pycocotools {version} ({reason})" in caplog.messages
    for task in expected:
        assert found[task] == pytest.approx(expected[task], abs=1e-9, nan_ok=True)


def test_few_detections_an_image_are_not_for_hotcoco(installed):
    installed("hotcoco")
    assert cocoeval._choose(10, "") == ("hotcoco", "")
    name, why = cocoeval._choose(9, "")
    assert name == "pycocotools" and "below 10" in why


def test_a_forked_process_does_not_wait_for_threads_that_stayed_behind(content):
    pytest.importorskip("hotcoco")
    results = noisy_detections(content)
    expected = scored(HotcocoEval, content, results, "segm")  # which begins its threads here
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            found = scored(make_cocoeval, content, results, "segm")
            code = 0 if np.allclose(found.stats[:12], expected.stats[:12]) else 2
        finally:
            os._exit(code)
    for _ in range(200):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert done and status == 0


def test_nothing_stays_behind():
    before = {name: getattr(cocoeval.detectron2_module, name, None) for name in cocoeval.NAMES}
    with pytest.raises(KeyError), fastest_cocoeval():
        assert cocoeval.detectron2_module.COCOeval is not COCOeval
        raise KeyError
    assert before == {
        name: getattr(cocoeval.detectron2_module, name, None) for name in cocoeval.NAMES
    }


def test_plain_ids():
    def content(image=1, category=1) -> dict:
        annotation = {"id": 1, "image_id": image, "category_id": category}
        return {
            "images": [{"id": image}],
            "annotations": [annotation],
            "categories": [{"id": category}],
        }

    assert has_plain_ids(content()) and has_plain_ids(content(0, 0))
    for wrong in ("1", 1.0, -1, True, 2**60, None):
        assert not has_plain_ids(content(image=wrong)) and not has_plain_ids(content(1, wrong))
