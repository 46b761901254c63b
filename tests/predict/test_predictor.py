"""Predictor: checkpoints that say all, images of every kind, and the numbers of evaluation."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from omegaconf import OmegaConf
from PIL import Image
from torch.testing import assert_close

from hiera_det.config import load_config
from hiera_det.data.shapes_draw import CLASS_COLORS, CLASS_NAMES
from hiera_det.engine.resume import RunFacts
from hiera_det.predict import Predictor, open_predictor

CHECKPOINTS = ("model_final", "model_best", "model_ema", "model_0000000")


@pytest.fixture(scope="module")
def predictor(run) -> Predictor:
    return Predictor.from_run(run)


@pytest.fixture(scope="module")
def files(images) -> list[Path]:
    return sorted(images.iterdir())


def assert_same(found: Instances, expected: Instances, **tolerance) -> None:
    assert found.image_size == expected.image_size
    assert len(found) == len(expected) > 3
    assert set(found.get_fields()) == set(expected.get_fields())
    assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, **tolerance)
    assert_close(found.scores, expected.scores, **tolerance)
    assert_close(found.pred_classes, expected.pred_classes)
    assert_close(found.pred_masks, expected.pred_masks)


def rewrite(path: Path, target: Path, change) -> Path:
    """A copy of a checkpoint whose content went through `change`."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, target)
    return target


# ------------------------------------------------------------------------------------ the file
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_checkpoint_of_a_run_says_what_prediction_needs(run, name):
    content = torch.load(run / f"{name}.pth", weights_only=True)
    facts = content["hiera_det"]
    assert facts["class_names"] == list(CLASS_NAMES)
    assert facts["class_colors"] == [list(color) for color in CLASS_COLORS]
    assert facts["category_ids"] == [1, 2, 3, 4, 5, 6]
    assert (facts["input_format"], facts["num_classes"]) == ("RGB", 6)
    assert facts["config"] == (run / "config.yaml").read_text()


def test_a_run_goes_on_with_another_config_and_not_with_other_classes():
    progress = dict(
        images_seen=0, iteration=0, total_batch_size=2, num_processes=1, max_iter=9
    )  # fmt: skip

    class Trainer:
        iter = 3

    old = RunFacts({"num_classes": 6}, Trainer(), progress, {"config": "a", "class_names": ["a"]})
    new = RunFacts({"num_classes": 6}, Trainer(), progress, {"config": "b", "class_names": ["b"]})
    new.check(old.state_dict(), None)
    other = RunFacts({"num_classes": 7}, Trainer(), progress, {"config": "a"})
    with pytest.raises(ValueError, match="num_classes was 6 and is 7"):
        other.check(old.state_dict(), None)


def test_weights_alone_are_enough(run, files, predictor, tmp_path, monkeypatch):
    """Of a file that was moved, with the run and the data out of reach."""
    path = shutil.copy(run / "model_final.pth", tmp_path / "mine.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    moved = Predictor.from_weights("mine.pth")
    assert moved.class_names == list(CLASS_NAMES) == predictor.class_names
    assert moved.class_colors == [tuple(color) for color in CLASS_COLORS]
    for one, two in zip(moved(files), open_predictor(path)(files), strict=True):
        assert_same(one, two, rtol=0, atol=0)


def test_a_folder_of_a_run_gives_its_last_weights(run, files, tmp_path):
    names = {name: Predictor.from_weights(run / f"{name}.pth")(files[0]) for name in CHECKPOINTS}
    assert_same(Predictor.from_run(run)(files[0]), names["model_final"], rtol=0, atol=0)
    shutil.copy(run / "model_0000000.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    assert_same(open_predictor(tmp_path)(files[0]), names["model_0000000"], rtol=0, atol=0)
    assert not torch.equal(names["model_0000000"].scores, names["model_final"].scores)


def test_an_older_checkpoint_takes_the_config_beside_it_or_says_what_to_do(
    run, files, predictor, tmp_path
):
    path = tmp_path / "model_final.pth"
    rewrite(run / "model_final.pth", path, lambda content: content["hiera_det"].pop("config"))
    with pytest.raises(ValueError, match=r"carries no config .*--config-file config.yaml"):
        Predictor.from_weights(path)
    with pytest.raises(ValueError, match="carries no config, and .*config.yaml does not exist"):
        Predictor.from_run(tmp_path)
    config = shutil.copy(run / "config.yaml", tmp_path / "config.yaml")
    expected = predictor(files[0])
    assert_same(Predictor.from_run(tmp_path)(files[0]), expected, rtol=0, atol=0)
    assert_same(Predictor(config, path)(files[0]), expected, rtol=0, atol=0)
    assert_same(open_predictor(tmp_path, config)(files[0]), expected, rtol=0, atol=0)


def test_a_config_in_weights_or_beside_them_runs_nothing(run, tmp_path):
    marker = tmp_path / "marker"
    call = f"{{_target_: os.system, command: 'touch {marker}'}}"
    text = (run / "config.yaml").read_text()
    assert "top_block: {_target_: detectron2.modeling.backbone.fpn.LastLevelMaxPool}" in text
    evil = text.replace(
        "top_block: {_target_: detectron2.modeling.backbone.fpn.LastLevelMaxPool}",
        f"top_block: {call}",
    )
    path = tmp_path / "model_final.pth"
    rewrite(run / "model_final.pth", path, lambda c: c["hiera_det"].update(config=evil))
    with pytest.raises(ValueError, match="'os.system', which is none of the parts"):
        Predictor.from_weights(path)
    rewrite(run / "model_final.pth", path, lambda c: c["hiera_det"].pop("config"))
    (tmp_path / "config.yaml").write_text(evil)
    with pytest.raises(ValueError, match="config.yaml: .*'os.system'"):
        Predictor.from_run(tmp_path)
    assert not marker.exists()


def test_weights_that_do_not_cover_the_model_are_refused(run, tmp_path):
    path = tmp_path / "half.pth"
    key = "roi_heads.mask_head.predictor.weight"
    rewrite(run / "model_final.pth", path, lambda content: content["model"].pop(key))
    with pytest.raises(ValueError, match=f"Missing from the file .*{key}"):
        Predictor.from_weights(path)


def test_options_are_checked(run):
    for options, text in (
        ({"device": "gpu"}, "device=gpu is no device"),
        ({"precision": "int8"}, "precision='int8' is none of fp32"),
    ):
        with pytest.raises(ValueError, match=text):
            Predictor.from_run(run, **options)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Predictor.from_run(run / "nowhere")
    with pytest.raises(FileNotFoundError, match="nothing.pth does not exist"):
        Predictor.from_weights(run / "nothing.pth")


# ------------------------------------------------------------------------------------ images
def kinds(path: Path) -> dict[str, tuple]:
    """The same picture in every form: image and channel order."""
    bgr = cv2.imread(str(path))
    rgb = bgr[:, :, ::-1]
    return {
        "path": (path, "RGB"),
        "text": (str(path), "RGB"),
        "pillow": (Image.open(path), "RGB"),
        "rgb": (rgb, "RGB"),
        "contiguous": (rgb.copy(), "RGB"),
        "bgr": (bgr, "BGR"),
        "tensor": (torch.from_numpy(rgb.copy()).permute(2, 0, 1), "RGB"),
        "tensor bgr": (torch.from_numpy(bgr).permute(2, 0, 1), "BGR"),
    }


def test_every_kind_of_image_is_seen_alike(predictor, files, tmp_path):
    path = tmp_path / "a picture.png"
    Image.open(files[1]).save(path)
    expected = predictor(path)
    for image, order in kinds(path).values():
        assert_same(predictor(image, channel_order=order), expected, rtol=0, atol=0)
        assert_same(predictor([image], order)[0], expected, rtol=0, atol=0)
    assert_same(predictor.predict_images([kinds(path)["rgb"][0]])[0], expected, rtol=0, atol=0)
    swapped = predictor(kinds(path)["bgr"][0])
    assert not torch.equal(swapped.scores, expected.scores)


def test_grey_and_deep_images_are_read_as_files_are(predictor, tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (40, 60), dtype=np.uint8)
    deep = rng.integers(0, 4096, (40, 60), dtype=np.uint16)
    deep_rgb = rng.integers(0, 4096, (40, 60, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    cv2.imwrite(str(tmp_path / "rgb.png"), deep_rgb[:, :, ::-1])
    expected = predictor(tmp_path / "grey.png")
    for image in (grey, grey[:, :, None], torch.from_numpy(grey)[None], Image.fromarray(grey)):
        assert_same(predictor(image), expected, rtol=0, atol=0)
    expected = predictor(tmp_path / "deep.png")
    for image in (deep, deep[:, :, None], Image.open(tmp_path / "deep.png")):
        assert_same(predictor(image), expected, rtol=0, atol=0)
    assert_same(predictor(deep_rgb), predictor(tmp_path / "rgb.png"), rtol=0, atol=0)


def test_images_are_turned_upright(predictor, files, tmp_path):
    upright = Image.open(files[1]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    expected = predictor(np.array(upright))
    assert_same(predictor(path), expected, rtol=0, atol=0)
    assert_same(predictor(Image.open(path)), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "image, error, text",
    [
        (np.zeros((4, 4, 3)), ValueError, "an image of float64: give uint8"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"leave out the fourth channel"),
        (np.zeros((3, 4, 4), np.uint8), ValueError, r"\(3, 4, 4\) is no image"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"\(0, 4, 3\) is no image"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), ValueError, r"it has to be uint8 \(3, H, W\)"),
        (torch.zeros(3, 4, 4), ValueError, "an image of float32"),
        ("nowhere.jpg", FileNotFoundError, "nowhere.jpg"),
        (5, TypeError, "not a int"),
        (None, TypeError, "not a NoneType"),
    ],
)
def test_what_is_no_image_is_refused(predictor, image, error, text):
    with pytest.raises(error, match=text):
        predictor(image)


def test_channel_order_is_one_of_two(predictor, files):
    with pytest.raises(ValueError, match="channel_order='rgb' is neither of RGB, BGR"):
        predictor(files[0], channel_order="rgb")


# ------------------------------------------------------------------------------------ numbers
def test_no_image_gives_nothing(predictor):
    assert predictor([]) == []
    assert predictor.predict_images([]) == []


def test_a_list_is_seen_as_its_images_alone(predictor, files):
    many = [files[k % 3] for k in range(10)]  # more than a batch, of mixed sizes
    alone = [predictor(file) for file in files]
    assert len({one.image_size for one in alone}) == 3
    for k, found in enumerate(predictor(many)):
        assert_same(found, alone[k % 3], rtol=0, atol=1e-4)


def test_a_model_that_pads_to_the_batch_sees_images_of_a_list_as_alone(run, files):
    cfg = load_config(run / "config.yaml", ["model.backbone.square_pad=0"])
    predictor = Predictor(cfg, run / "model_final.pth")
    square = np.array(Image.open(files[0]))
    images = [square, square[:20], square[:, :20]]  # padded to 64 x 64, 32 x 64 and 64 x 32
    for found, image in zip(predictor(images), images, strict=True):
        assert_same(found, predictor(image), rtol=0, atol=1e-4)


def test_bf16_is_near(run, files, predictor):
    half = Predictor.from_run(run, precision="bf16")
    for found, expected in zip(half(files), predictor(files), strict=True):
        assert {value.dtype for value in (found.scores, found.pred_boxes.tensor)} == {torch.float32}
        assert not torch.equal(found.scores[:3], expected.scores[:3])
        assert_close(found.scores[:3], expected.scores[:3], rtol=0.05, atol=0.02)


def test_precision_is_that_of_evaluation_by_default(run, tmp_path):
    text = (run / "config.yaml").read_text().replace("eval_precision: null", "eval_precision: bf16")
    path = tmp_path / "model_final.pth"
    rewrite(run / "model_final.pth", path, lambda c: c["hiera_det"].update(config=text))
    assert Predictor.from_weights(path).precision == "bf16"
    assert Predictor.from_weights(path, precision="fp32").precision == "fp32"


def test_grey_models_see_grey(run, files):
    cfg = load_config(run / "config.yaml")
    OmegaConf.update(cfg, "dataloader.test.mapper.image_format", "L")
    predictor = Predictor(cfg, run / "model_final.pth")
    rgb = np.array(Image.open(files[1]))
    assert predictor.pixels(rgb).shape == (*rgb.shape[:2], 1)
    assert_close(predictor.pixels(rgb), predictor.pixels(files[1]))
