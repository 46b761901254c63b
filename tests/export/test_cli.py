"""`hiera-det export`, and `hiera-det predict` with what it wrote."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hiera_det import cli
from hiera_det.config.save import config_text
from hiera_det.export.files import open_pt2

pytestmark = pytest.mark.slow  # tracing and translating take seconds


@pytest.fixture(scope="module")
def weights(build, tmp_path_factory):
    """A checkpoint that carries its config, as a run writes it."""
    built = build("dataloader.test.dataset.names=none_val")
    path = tmp_path_factory.mktemp("weights") / "model_final.pth"
    meta = {
        "source": "detection",
        "num_classes": 6,
        "class_names": built.class_names,
        "class_colors": [list(color) for color in built.class_colors],
        "category_ids": built.category_ids,
        "input_format": "RGB",
        "config": config_text(built.cfg),
    }
    torch.save({"model": built.model.state_dict(), "hiera_det": meta}, path)
    return path


@pytest.fixture(scope="module")
def weights_without_square(weights, tmp_path_factory):
    """The same detector, which pads images to a multiple of 32 alone, as recipes on a CPU do."""
    content = torch.load(weights, weights_only=True)
    text = content["hiera_det"]["config"]
    square = "square_pad: ${dataloader.image_size}"
    assert text.count(square) == 1
    content["hiera_det"]["config"] = text.replace(square, "square_pad: 0")
    path = tmp_path_factory.mktemp("no_square") / "model_final.pth"
    torch.save(content, path)
    return path


def test_a_model_that_pads_to_no_square(weights_without_square, folder, tmp_path, capsys):
    path = tmp_path / "pyramid.pt2"
    argv = ["export", "--weights", str(weights_without_square), "--output", str(path)]
    assert cli.main([*argv, "--part", "trunk", "--images", str(folder)]) == 0
    assert "pads to no square: compared and written is it padding to 96 px" in (
        capsys.readouterr().out
    )
    assert open_pt2(path)[1]["image_size"] == 96


@pytest.fixture
def folder(images, tmp_path):
    folder = tmp_path / "bilder für mich"
    (folder / "sub").mkdir(parents=True)
    for k, (_, image) in enumerate(images):
        Image.fromarray(image).save(folder / ("sub" if k % 2 else ".") / f"{k} ü.png")
    return folder


def test_weights_alone_to_onnx_to_predictions(weights, folder, tmp_path, capsys):
    model = tmp_path / "model.onnx"
    argv = ["export", "--weights", str(weights), "--output", str(model), "--images", str(folder)]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert f"comparing on 6 images, of {folder}" in out
    assert f"{model}: detector for images of 96 px, equal to the model on 6 images" in out

    for name, source in (("onnx", model), ("torch", weights)):
        argv = ["predict", "--weights", str(source), "--input", str(folder), "--device", "cpu"]
        assert cli.main([*argv, "--output", str(tmp_path / name), "--num-workers", "0"]) == 0
    found, expected = (
        json.loads((tmp_path / name / "coco_instances_results.json").read_text())
        for name in ("onnx", "torch")
    )
    assert len(found) == len(expected) > 50
    for a, b in zip(found, expected, strict=True):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=0.1)
        np.testing.assert_allclose(a["score"], b["score"], atol=1e-3)

    capsys.readouterr()
    assert cli.main(["export", "--weights", str(weights), "--output", str(model)]) == 2
    assert capsys.readouterr().err == f"error: {model} exists; remove it or choose another name\n"


def test_another_size_and_images_that_are_made(weights, tmp_path, capsys):
    """The config names a test set that is not on this machine."""
    path = tmp_path / "pyramid.pt2"
    argv = ["export", "--weights", str(weights), "--output", str(path), "--part", "trunk"]
    assert cli.main([*argv, "--image-size", "64"]) == 0
    assert "comparing on 4 images, generated" in capsys.readouterr().out
    run, facts = open_pt2(path)
    assert {key: facts[key] for key in ("image_size", "short_edge", "max_size")} == {
        "image_size": 64,
        "short_edge": 64,
        "max_size": 64,
    }
    maps = run(images=np.zeros((1, 64, 64, 3), np.uint8), sizes=np.array([[64, 64]]))
    assert maps["p2"].shape == (1, 16, 16, 16)

    assert (
        cli.main([*argv[:4], str(tmp_path / "other.pt2"), "--part", "trunk", "--image-size", "100"])
        == 2
    )
    assert "error: image size 100: give a multiple of 32 px" in capsys.readouterr().err
