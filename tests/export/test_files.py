"""Exported files: what they say and find, and when none is written."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from hiera_det import __version__
from hiera_det.export.files import check_output, export_model, open_pt2
from hiera_det.export.parity import DetectionParity, MapParity

onnx = pytest.importorskip("onnx", reason='pip install "hiera_det[onnx]"')
pytest.importorskip("onnxscript", reason='pip install "hiera_det[onnx]"')
pytest.importorskip("onnxruntime", reason='pip install "hiera_det[onnx]"')

from hiera_det.export.runtime import OnnxDetector, OnnxPredictor, open_onnx  # noqa: E402

slow = pytest.mark.slow  # tracing and translating take seconds


@pytest.fixture(scope="module")
def detector(build, images, tmp_path_factory):
    """A detector and its ONNX file."""
    built = build()
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    report = export_model(built, path, images)
    return built, path, report


@slow
def test_an_onnx_file_finds_what_the_model_finds(detector, images):
    built, path, report = detector
    assert report.startswith(
        f"{path}: detector for images of 96 px, equal to the model on 6 images"
    )
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    predictor = OnnxPredictor(path, num_threads=1)
    assert predictor.class_names == built.class_names
    assert predictor.class_colors == built.class_colors
    arrays = [image for _, image in images]
    count = 0
    for found, expected in zip(
        predictor.predict_images(arrays), built.predict_images(arrays), strict=True
    ):
        assert found.image_size == expected.image_size
        assert set(found.get_fields()) == set(expected.get_fields())
        torch.testing.assert_close(
            found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=0.01
        )
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.pred_classes, expected.pred_classes)
        assert (found.pred_masks ^ expected.pred_masks).sum() <= 3
        count += len(found)
    assert count > 50


@slow
def test_an_onnx_file_says_all_that_its_user_needs(detector):
    built, path, _ = detector
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert {o.domain: o.version for o in model.opset_import}[""] >= 18
    assert {"NonMaxSuppression", "RoiAlign"} <= {node.op_type for node in model.graph.node}
    assert "Resize" not in {n.op_type for n in model.graph.node if "position" in n.name}
    facts = json.loads({p.key: p.value for p in model.metadata_props}["hiera_det"])
    assert facts["hiera_det"] == __version__
    assert facts["class_names"] == built.class_names
    assert facts["class_colors"] == [list(color) for color in built.class_colors]
    np.testing.assert_allclose(facts["pixel_mean"], built.model.pixel_mean.flatten())
    np.testing.assert_allclose(facts["pixel_std"], built.model.pixel_std.flatten())
    expected = {
        "part": "detector",
        "image_size": 96,
        "short_edge": 96,
        "max_size": 96,
        "input_format": "RGB",
        "score_threshold": 0.05,
        "max_detections": 20,
        "inputs": ["image", "size"],
        "outputs": ["boxes", "scores", "classes", "masks"],
    }
    assert {key: facts[key] for key in expected} == expected
    assert len(facts["config_sha256"]) == 64


@slow
def test_detection_from_a_file_needs_no_torch(detector, images, tmp_path):
    _, path, _ = detector
    np.save(tmp_path / "image.npy", images[1][1])
    code = f"""
import sys
sys.modules["torch"] = sys.modules["torchvision"] = sys.modules["detectron2"] = None
import numpy as np
from hiera_det.export.runtime import OnnxDetector
found = OnnxDetector({str(path)!r}, 1)(np.load({str(tmp_path / "image.npy")!r}))
np.savez({str(tmp_path / "found.npz")!r}, **found)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    found = np.load(tmp_path / "found.npz")
    expected = OnnxDetector(path, 1)(images[1][1])
    assert set(found) == set(expected) and len(expected["boxes"]) > 5
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)


@slow
def test_an_image_without_any_detection(build, images, tmp_path):
    built = build("model.roi_heads.box_predictor.test_score_thresh=1.0")
    report = export_model(built, tmp_path / "model.onnx", images[:2])
    assert " 0 detections" in report
    (found,) = OnnxPredictor(tmp_path / "model.onnx", 1).predict_images([images[0][1]])
    assert len(found) == 0 and found.pred_masks.shape == (0, 96, 96)


@slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_trunk_and_pyramid_of_any_number_of_images(suffix, build, images, tmp_path):
    built = build()
    path = tmp_path / f"pyramid{suffix}"
    export_model(built, path, images, part="trunk")
    run, facts = open_onnx(path, 1) if suffix == ".onnx" else open_pt2(path)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 96, 96, 3), dtype=np.uint8)
    sizes = np.full((5, 2), 96)
    found = run(images=pixels, sizes=sizes)
    inputs = [{"image": torch.from_numpy(x).permute(2, 0, 1)} for x in pixels]
    with torch.no_grad():
        expected = built.model.backbone(built.model.preprocess_image(inputs).tensor)
    assert list(found) == list(expected) == facts["outputs"] == ["p2", "p3", "p4", "p5", "p6"]
    for name, value in expected.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), value, rtol=0, atol=1e-4)
    if suffix == ".onnx":
        with pytest.raises(ValueError, match="holds a trunk alone, which detects nothing"):
            OnnxDetector(path)


@slow
def test_torch_export_of_a_detector(build, images, tmp_path):
    built = build()
    report = export_model(built, tmp_path / "model.pt2", images)
    assert "equal to the model on 6 images" in report
    _, facts = open_pt2(tmp_path / "model.pt2")
    assert facts["class_names"] == built.class_names and facts["part"] == "detector"


@slow
def test_a_file_that_differs_is_not_kept(build, images, tmp_path):
    """The model that is asked is another one than the model that is traced."""
    built, other = build(), build()
    with torch.no_grad():
        other.model.roi_heads.box_predictor.bbox_pred.bias += 0.05
    built.predict_images = other.predict_images
    with pytest.raises(ValueError, match="was not written, it differs from the model: 2 images, "):
        export_model(built, tmp_path / "model.pt2", images[:2])
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_or_missing_is_refused_before_the_work(tmp_path):
    taken = tmp_path / "model.onnx"
    taken.write_text("mine")
    with pytest.raises(FileExistsError, match=r"model.onnx exists; remove it or choose"):
        check_output(taken)
    assert taken.read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        check_output(tmp_path / "no" / "model.onnx")
    with pytest.raises(ValueError, match=r"the suffix says what to write, .onnx or .pt2"):
        check_output(tmp_path / "model.pth")


def test_a_missing_package_and_an_old_torch_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r'needs onnxscript: pip install "hiera_det\[onnx\]"'):
        check_output(tmp_path / "model.onnx")
    check_output(tmp_path / "model.pt2")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ImportError, match=r"torch 2.5.1\+cpu is installed; export needs 2.6 or"):
        check_output(tmp_path / "model.pt2")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.backbone.square_pad=64", "square_pad=64: a file takes squares .* set it to 96"),
        (
            "dataloader.test.mapper.augmentations=[]",
            "can be exported is one ResizeShortestEdge",
        ),
    ],
)
def test_images_that_no_fixed_graph_can_take(override, message, build, images, tmp_path):
    built = build()
    from hiera_det.config import apply_overrides

    built.cfg = apply_overrides(built.cfg, [override])
    if "square_pad" in override:
        built.model.backbone._square_pad = 64
    with pytest.raises(ValueError, match=message):
        export_model(built, tmp_path / "model.pt2", images)


def test_what_is_no_exported_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        OnnxDetector(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="ONNX Runtime cannot read it"):
        OnnxDetector(tmp_path / "bad.onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [out]
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9
    )
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="was not written by `hiera-det export`"):
        OnnxDetector(tmp_path / "other.onnx")


# ------------------------------------------------------------------------------------- parity
def instances(boxes, scores, classes=None) -> Instances:
    count = len(boxes)
    masks = torch.zeros(count, 40, 40, dtype=torch.bool)
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        masks[k, int(y0) : int(y1), int(x0) : int(x1)] = True
    return Instances(
        (40, 40),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor(scores, dtype=torch.float32),
        pred_classes=torch.tensor(classes or [0] * count),
        pred_masks=masks,
    )


ONE, TWO = [0.0, 0.0, 20.0, 20.0], [10.0, 10.0, 30.0, 35.0]


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (instances([TWO, ONE], [0.9, 0.8]), False),  # scores belong to the wrong boxes
        (instances([ONE, TWO], [0.9, 0.8]), True),
        (instances([ONE, [10.09, 10.0, 30.0, 35.0]], [0.9, 0.8]), True),
        (instances([ONE, [10.2, 10.0, 30.0, 35.0]], [0.9, 0.8]), False),
        (instances([ONE, TWO], [0.9, 0.802]), False),
        (instances([ONE, TWO], [0.9, 0.8], [0, 1]), False),
        (instances([ONE], [0.9]), False),
        (instances([ONE, TWO, TWO], [0.9, 0.8, 0.3]), False),
        (instances([ONE, TWO, [1.0, 1.0, 9.0, 9.0]], [0.9, 0.8, 0.0505]), True),
        (instances([ONE, TWO], [0.9, float("nan")]), False),
    ],
)
def test_parity_of_detections(found, holds):
    parity = DetectionParity(threshold=0.05, max_detections=100)
    parity.add("image.jpg", instances([ONE, TWO], [0.9, 0.8]), found)
    assert parity.holds is holds, parity


def test_parity_of_masks_and_maps():
    expected, found = (instances([ONE, TWO], [0.9, 0.8]) for _ in range(2))
    found.pred_masks[0, 0, :5] = False  # 5 of 400 px
    parity = DetectionParity(threshold=0.05, max_detections=100)
    parity.add("image.jpg", expected, found)
    assert not parity.holds and abs(parity.mask_iou - 395 / 400) < 1e-6
    assert not MapParity().holds, "nothing was compared"
    maps = MapParity()
    maps.add([np.zeros((2, 3))], [np.full((2, 3), 5e-5)])
    assert maps.holds
    maps.add([np.zeros((2, 3))], [np.full((2, 3), np.nan)])
    assert not maps.holds
