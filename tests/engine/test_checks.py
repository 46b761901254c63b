"""Values that pass Detectron2 and cost AP: each is an error or a warning that names its key."""

import logging
import re

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from hiera_det.checkpoint import load_init_checkpoint, write_checkpoint
from hiera_det.config import config_roots, load_config
from hiera_det.engine import check_config
from hiera_det.report.dry_run import dry_run

SHAPES = "shapes/mask_rcnn_hiera_shapes"
LEAF = "COCO/mask_rcnn_hiera_b"
LEAVES = sorted(
    prefix + path.relative_to(root).as_posix()
    for prefix, root in config_roots().items()
    for path in root.rglob("*.py")
    if not {"common", "custom"} & set(path.parts) and path.name != "__init__.py"
)
BGR = ["model.input_format=BGR", "dataloader.train.mapper.image_format=BGR"]
BGR_OWN_PIXELS = [*BGR, "model.pixel_mean=[100,110,120]", "model.pixel_std=[50,51,52]"]


@pytest.mark.parametrize("name", LEAVES)
def test_shipped_configs_are_free_of_warnings(name):
    assert check_config(load_config(name)) == []


@pytest.mark.parametrize(
    "overrides, text",
    [
        (["model.pixel_mean=[0.485,0.456,0.406]"], r"pixel_mean=.* 0 to 1, .*\[123.675, 116.28"),
        (["model.pixel_std=[0.229,0.224,0.225]"], r"pixel_std=.* 0 to 1, .*\[58.395, 57.12"),
        (["model.pixel_std=[58.395,0,57.375]"], "pixel_std=.*above 0"),
        (["model.pixel_std=[57.375,57.12,58.395]"], r"pixel_std=.*BGR order.*give \[58.395"),
        (["model.pixel_mean=[103.53,116.28,123.675]"], r"pixel_mean=.*BGR order.*give \[123.6"),
        (BGR, "pixel_mean=.*RGB order, but model.input_format is BGR"),
        (
            [*BGR, "model.pixel_mean=[103.53,116.28,123.675]"],
            r"pixel_std=.*RGB order.*give \[57.375",
        ),
        (
            ["model.proposal_generator.anchor_generator.strides=[8,16,32,64,128]"],
            r"anchor_generator.strides=\[8, .* have strides \[4, 8, 16, 32, 64\]",
        ),
        (
            ["model.proposal_generator.in_features=[p3,p4,p5,p6]"],
            r"strides=\[4, 8, 16, 32, 64\].* have strides \[8, 16, 32, 64\]",
        ),
        (
            ["model.roi_heads.box_pooler.scales=[0.5,0.25,0.125,0.0625]"],
            "box_pooler.scales=.*1 / s",
        ),
        (["model.roi_heads.mask_in_features=[p3,p4,p5]"], "mask_pooler.scales=.*have strides"),
        (["dataloader.test.dataset.filter_empty=True"], "test.dataset.filter_empty is True"),
        (
            ["dataloader.test.mapper.augmentations.0.max_size=null"],
            r"dataloader.test.mapper.augmentations.0 is ResizeShortestEdge without max_size",
        ),
    ],
)
def test_surely_wrong(overrides, text):
    with pytest.raises(ValueError, match=text):
        check_config(load_config(LEAF, overrides))


def test_test_set_without_the_key_takes_detectron2s_default():
    cfg = load_config(LEAF)
    del cfg.dataloader.test.dataset["filter_empty"]
    with pytest.raises(ValueError, match=r"\+dataloader.test.dataset.filter_empty=False"):
        check_config(cfg)


def test_resize_without_max_size_in_a_new_list():
    cfg = load_config(LEAF)
    cfg.dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=1024)]
    with pytest.raises(ValueError, match="without max_size"):
        check_config(cfg)
    # a crop bounds the image of training
    cfg = load_config(LEAF)
    nodes = cfg.dataloader.train.mapper.augmentations
    nodes[1] = L(T.ResizeShortestEdge)(short_edge_length=1024)
    assert check_config(cfg) == []
    # without square padding nothing is cut
    cfg = load_config(LEAF, ["model.backbone.square_pad=0"])
    cfg.dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=1024)]
    assert check_config(cfg) == []


@pytest.mark.parametrize(
    "overrides, text",
    [
        (["model.pixel_std=[1,1,1]"], "model.pixel_std=.*Caffe.*58.395"),
        (["model.pixel_mean=[90,100,110]"], "model.pixel_mean=.*rises from red to blue"),
        (
            [*BGR_OWN_PIXELS, "train.init_checkpoint=a"],
            "model.input_format=BGR with train.init_checkpoint=a: every public Hiera saw RGB",
        ),
        (["dataloader.train.mapper.recompute_boxes=False"], "recompute_boxes=False with FixedSize"),
        (["dataloader.test.mapper.augmentations=[]"], "test.mapper.augmentations resizes nothing"),
        (
            ["dataloader.train.total_batch_size=16"],
            "optimizer.lr=3.5e-05 at dataloader.train.total_batch_size=16: .* 3.5e-05 for 64 "
            "images, so 1.75e-05 here by the square root or 8.75e-06 in proportion",
        ),
        (["optimizer.lr=3.5e-4"], "optimizer.lr=0.00035 at .*=64"),
        (["optimizer.lr=1e-6"], "optimizer.lr=1e-06 at .*=64"),
    ],
)
def test_warnings_name_the_key(overrides, text, caplog):
    warnings = check_config(load_config(LEAF, overrides))
    assert len(warnings) == 1
    assert re.search(text, warnings[0]), warnings[0]
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == warnings


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataloader.train.total_batch_size=16", "optimizer.lr=1.75e-5"],
        ["dataloader.train.total_batch_size=16", "optimizer.lr=8.75e-6"],
        ["dataloader.train.total_batch_size=16", "train.lr_scaling.rule=sqrt"],
        ["dataloader.train.total_batch_size=32"],
        [f"dataloader.train.mapper.{k}=False" for k in ("recompute_boxes", "use_instance_mask")],
        [*BGR, "model.pixel_mean=[103.53,116.28,123.675]", "model.pixel_std=[57.375,57.12,58.395]"],
        ["model.pixel_mean=[0,0,0]", "model.pixel_std=[255,255,255]"],
    ],
)
def test_what_may_be_meant_passes(overrides):
    assert check_config(load_config(LEAF, overrides)) == []


def test_a_rate_that_is_a_formula_of_the_batch_follows_it():
    name = "pretrain/mae_hiera_b"
    assert check_config(load_config(name, ["dataloader.train.total_batch_size=64"])) == []
    wrong = ["dataloader.train.total_batch_size=64", "optimizer.lr=8e-4"]
    assert (
        "the config's rate is 1.25e-05 for 64 images" in check_config(load_config(name, wrong))[0]
    )


def test_batch_that_does_not_divide(monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="total_batch_size=64 does not divide among 3.*63 does"):
        check_config(load_config(LEAF))


def test_dry_run_shows_the_warnings(monkeypatch):
    for part in ("_parameters", "_weights", "_optimizer", "_schedule", "_data"):
        monkeypatch.setattr(f"hiera_det.report.dry_run.{part}", lambda *args: [])
    cfg = load_config(SHAPES, ["model.pixel_std=[1,1,1]", "train.device=cpu"])
    assert dry_run(cfg, check_config(cfg)).startswith("WARNINGS\n  model.pixel_std=[1.0, 1.0, 1.0]")
    assert "WARNINGS" not in dry_run(cfg)


# ------------------------------------------------------------------- pixels of the pretraining
@pytest.fixture(scope="module")
def detector():
    from detectron2.config import instantiate

    torch.manual_seed(0)
    return instantiate(load_config(SHAPES).model)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("mean, said", [("20 30 40", True), ("123.675 116.28 103.53", False)])
def test_other_pixels_than_in_pretraining_are_told(detector, tmp_path, caplog, suffix, mean, said):
    path = str(tmp_path / f"encoder{suffix}")
    facts = {"pixel_mean": mean, "pixel_std": "58.395 57.12 57.375", "source": "MAE pretraining"}
    write_checkpoint(path, detector.backbone.bottom_up.trunk.state_dict(), facts)
    verdict = load_init_checkpoint(detector, path)
    text = "pixel_mean was 20 30 40 in pretraining, here 123.675 116.28 103.53"
    assert (text in verdict) is said and ("pixel_std" in verdict) is False
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any(text in message for message in warned) is said
