"""Overrides that are plain text, and values of the wrong type or range."""

import os

import pytest
from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from hiera_det.config import load_config
from hiera_det.report.cost import count_macs, meta_model

SHAPES = "shapes/mask_rcnn_hiera_shapes"
LEAF = "COCO/mask_rcnn_hiera_b"
MAE = "pretrain/mae_hiera_shapes"


# -------------------------------------------------------------------------------- plain text
@pytest.mark.parametrize(
    "value",
    ["/data/Müller/a", "/a b/c  d", "/a=b", "/a?b", "/a,b", "/a(1)/b", "007", "1e5", "true", "x:y"],
)
@pytest.mark.parametrize("key", ["train.output_dir", "train.init_checkpoint"])
def test_text_is_taken_as_it_stands(key, value):
    assert OmegaConf.select(load_config(LEAF, [f"{key}={value}"]), key) == value


@pytest.mark.parametrize(
    "key", ["train_json", "train_images", "val_json", "val_images", "train.dataset.root"]
)
def test_home_is_expanded(key):
    name = MAE if "root" in key else "custom/coco_json"
    cfg = load_config(name, [f"dataloader.{key}=~/Bilder ä"])
    assert OmegaConf.select(cfg, f"dataloader.{key}") == os.path.expanduser("~/Bilder ä")


def test_home_of_output_and_weights_is_expanded():
    cfg = load_config(LEAF, ["train.output_dir=~/x", "train.init_checkpoint=~/y.pth"])
    assert cfg.train.output_dir == os.path.expanduser("~/x")
    assert cfg.train.init_checkpoint == os.path.expanduser("~/y.pth")


def test_quotes_and_lists_are_hydras():
    cfg = load_config(LEAF, ["train.output_dir='a b=[c]'", "optimizer.betas=[0.8,0.9]"])
    assert cfg.train.output_dir == "a b=[c]" and cfg.optimizer.betas == [0.8, 0.9]
    cfg = load_config(LEAF, ["model.backbone.norm=null", "train.init_checkpoint=''"])
    assert cfg.model.backbone.norm is None and cfg.train.init_checkpoint == ""


@pytest.mark.parametrize(
    "override, text",
    [
        ("optimizer.betas=(0.8,0.9)", "not key=value in Hydra's grammar.*A list is"),
        ("train.amp={enabled:True", "not key=value"),
        ("train.max_iter=3,4", r"several values; a list is train.max_iter=\[3,4\]"),
        ("dataloader.image_size=ü", "not key=value"),
    ],
)
def test_text_does_not_replace_numbers_and_lists(override, text):
    with pytest.raises(ValueError, match=text):
        load_config(LEAF, [override])


# ----------------------------------------------------------------------------- wrong values
@pytest.mark.parametrize(
    "name, override, text",
    [
        (LEAF, "train.max_iter=abc", "train.max_iter=abc must be a whole number of at least 1"),
        (LEAF, "train.max_iter=2.5", "train.max_iter=2.5 must be a whole number"),
        (LEAF, "train.epochs=-1", "train.epochs=-1 must be a number above 0"),
        (LEAF, "train.epochs=nan", "train.epochs=nan must be a number"),
        (LEAF, "train.epochs=inf", "train.epochs=inf must be a number"),
        (LEAF, "train.epoch_images=0", "train.epoch_images=0 must be a whole number of at least 1"),
        (LEAF, "train.amp.enabled=1", "train.amp.enabled=1 must be True or False"),
        (LEAF, "train.amp.enabled=yes", "train.amp.enabled=yes must be True or False"),
        (LEAF, "train.amp.precision=bf32", "train.amp.precision=bf32 must be one of bf16, fp16"),
        (LEAF, "train.seed=x", "train.seed=x must be a whole number"),
        (LEAF, "train.seed=True", "train.seed=True must be a whole number"),
        (LEAF, "train.output_dir=null", "train.output_dir=null must be text"),
        (LEAF, "train.output_dir=", "train.output_dir='' must be text, the folder of the run"),
        (LEAF, "optimizer.betas=[0.9]", r"optimizer.betas=\[0.9\] must be two numbers"),
        (LEAF, "train.log_period=0", "train.log_period=0 must be a whole number of at least 1"),
        (LEAF, "train.clip_grad_norm=-1", "train.clip_grad_norm=-1 must be a number of at least 0"),
        (LEAF, "train.ema.decay=1", "train.ema.decay=1 must be a number between 0 and 1"),
        (LEAF, "train.lr_scaling.rule=root", "train.lr_scaling.rule=root must be one of none, l"),
        (LEAF, "train.images_per_process=0", "images_per_process=0 .*at least 1, or null"),
        (LEAF, "dataloader.train.total_batch_size=0", "total_batch_size=0 .* of at least 1"),
        (LEAF, "dataloader.train.total_batch_size=-4", "total_batch_size=-4 .* of at least 1"),
        (LEAF, "dataloader.train.total_batch_size=a", "total_batch_size=a .* of at least 1"),
        (LEAF, "dataloader.image_size=big", "dataloader.image_size=big must be a whole number"),
        (LEAF, "dataloader.train.num_workers=-1", "num_workers=-1 .* of at least 0"),
        (LEAF, "optimizer.lr=fast", "optimizer.lr=fast must be a number"),
        (LEAF, "model.backbone.bottom_up.trunk.variant=null", "trunk.variant=null must be one of"),
        (LEAF, "model.backbone.bottom_up.trunk.variant=b", "trunk.variant=b must be one of hiera"),
        (MAE, "model.variant=hiera_bb", "model.variant=hiera_bb .*did you mean hiera_b"),
        (MAE, "train.warmup_epochs=-1", "train.warmup_epochs=-1 must be a number of at least 0"),
        (MAE, "dataloader.train.images_per_process=8", "is now train.images_per_process"),
    ],
)
def test_wrong_value_names_key_and_fix(name, override, text):
    with pytest.raises(ValueError, match=text):
        load_config(name, [override])


def test_file_with_a_wrong_value_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from hiera_det import get_config\n"
        f"cfg = get_config('{SHAPES}')\n"
        "cfg.train.max_iter = 'abc'\n"
        "dataloader, lr_multiplier, model = cfg.dataloader, cfg.lr_multiplier, cfg.model\n"
        "optimizer, train = cfg.optimizer, cfg.train\n"
    )
    with pytest.raises(ValueError, match="train.max_iter=abc must be a whole number"):
        load_config(path)


def test_whole_floats_are_whole_numbers():
    cfg = load_config(LEAF, ["train.max_iter=1e4", "train.epochs=3"])
    assert (cfg.train.max_iter, type(cfg.train.max_iter)) == (10_000, int)
    assert cfg.train.epochs == 3


def test_images_per_process_is_one_key():
    for name in (MAE, LEAF):
        cfg = load_config(name, ["train.images_per_process=4"])
        assert cfg.train.images_per_process == 4
        assert "images_per_process" not in cfg.dataloader.train


def test_images_per_process_of_an_older_file(tmp_path):
    cfg = load_config(MAE)
    del cfg.train["images_per_process"]
    cfg.dataloader.train.images_per_process = 8
    LazyConfig.save(cfg, str(tmp_path / "a.yaml"))
    back = load_config(tmp_path / "a.yaml")
    assert back.train.images_per_process == 8
    assert "images_per_process" not in back.dataloader.train


@pytest.mark.parametrize("size", [250, 160])
def test_costs_of_any_image_size(size):
    """250 px are padded to 256, as the model pads them."""
    model = meta_model(load_config(SHAPES, [f"dataloader.image_size={size}"]).model)
    assert count_macs(model, size) == count_macs(model, -(-size // 32) * 32)
