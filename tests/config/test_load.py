"""Loading and overriding configs."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import hiera_det
from hiera_det.config import apply_overrides, config_root, find_config, load_config
from hiera_det.config.resolvers import FORMULAS, FROM_FILES, ON_DEMAND

LEAF = "COCO/mask_rcnn_hiera_b.py"
LEAVES = sorted(
    str(p.relative_to(config_root()))
    for p in config_root().rglob("*.py")
    if "common" not in p.parts
)
MAE = "pretrain/mae_hiera_b"
RESOLVERS = FORMULAS | FROM_FILES | ON_DEMAND


@pytest.mark.parametrize("name", LEAVES)
def test_leaf_has_the_keys_of_lazyconfig(name):
    cfg = hiera_det.get_config(name)
    keys = set(cfg) - ({"recipe"} if name == "custom/auto.py" else set())
    assert keys == {"model", "dataloader", "train", "optimizer", "lr_multiplier"}


@pytest.mark.parametrize("name", LEAVES)
def test_leaf_says_how_to_run_it(name):
    import ast

    doc = ast.get_docstring(ast.parse((config_root() / name).read_text()))
    assert "tools/lazyconfig_train_net.py" in doc and name in doc


def test_overrides_reach_derived_values():
    cfg = load_config(LEAF, ["dataloader.train.total_batch_size=16", "dataloader.image_size=256"])
    assert cfg.train.max_iter == 100 * 118_000 // 16
    assert cfg.model.backbone.square_pad == 256
    assert list(cfg.dataloader.train.mapper.augmentations[2].crop_size) == [256, 256]
    assert cfg.dataloader.test.mapper.augmentations[0].max_size == 256


@pytest.mark.parametrize("name", [LEAF, "configs/" + LEAF, LEAF.removesuffix(".py")])
def test_packaged_configs_are_found_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(name).train.epochs == 100


@pytest.mark.parametrize(
    "name", [MAE, MAE + ".py", "pretrain/configs/mae_hiera_b.py", "./pretrain/configs/mae_hiera_b"]
)
def test_configs_of_pretraining_are_found_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name).name == "mae_hiera_b.py"
    assert hiera_det.get_config(name).train.epochs == 1600


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "COCO").mkdir()
    (tmp_path / LEAF).write_text((config_root() / "common/train.py").read_text())
    with pytest.raises(ValueError, match="defines no model"):
        load_config(LEAF)


def test_parts_are_found_by_name():
    assert hiera_det.get_config("common/train.py").train.eval_period == 5000


def test_missing_config_of_pretraining_names_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="did you mean .*pretrain/mae_hiera_b.py"):
        load_config("pretrain/configs/mae_hiera_bb.py")


def test_keys_of_a_run_are_added_to_configs_without_them(tmp_path):
    """A config of Detectron2, whose `train` is its own."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from hiera_det import get_config\n"
        f"cfg = get_config({LEAF!r})\n"
        "dataloader, lr_multiplier, model = cfg.dataloader, cfg.lr_multiplier, cfg.model\n"
        "optimizer, train = cfg.optimizer, dict(output_dir='x', init_checkpoint='', max_iter=7)\n"
    )
    train = load_config(path).train
    assert (train.max_iter, train.output_dir) == (7, "x")
    assert set(train) == set(load_config(LEAF).train)


def test_run_keys_stand_once():
    """Pretraining's `train` is the detector's with other values, and keys of its own."""
    own = {"warmup_epochs", "picture_epochs"}
    assert set(load_config(MAE).train) == set(load_config(LEAF).train) | own


@pytest.mark.parametrize("name", sorted(RESOLVERS))
def test_resolver_is_there_and_its_function_exists(name):
    module, function = RESOLVERS[name].split(":")
    assert OmegaConf.has_resolver(name)
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.slow
def test_loading_registers_what_ships(tmp_path):
    """In a process of its own: others have imported everything."""
    code = (
        "from hiera_det.config import load_config; from detectron2.data import DatasetCatalog;"
        "load_config('common/train'); assert {'shapes_train', 'shapes_val'} <= set(DatasetCatalog)"
    )
    path = os.pathsep.join([str(Path(hiera_det.__file__).parents[1]), *sys.path])
    env = os.environ | {"PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)


def test_missing_config_names_the_nearest():
    with pytest.raises(FileNotFoundError, match="mask_rcnn_hiera_bb.*mask_rcnn_hiera_b.py"):
        load_config("configs/COCO/mask_rcnn_hiera_bb.py")


def test_missing_config_names_its_neighbours(tmp_path):
    (tmp_path / "mine_b.py").touch()
    with pytest.raises(FileNotFoundError, match="did you mean .*mine_b.py"):
        load_config(str(tmp_path / "mine_a.py"))


def test_file_that_is_no_training_config(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("train = dict(a=1)\n")
    with pytest.raises(ValueError, match="a.py defines no model"):
        load_config(str(path))


@pytest.mark.parametrize(
    "override, nearest",
    [
        ("train.max_itr=3", "train.max_iter"),
        ("optimizer.lrr=1", "optimizer.lr"),
        ("model.backbone.bottom_up.trunk.varient=x", "model.backbone.bottom_up.trunk.variant"),
        ("max_iter=3", "train.max_iter"),
        ("dataloader.train.mapper.augmentations.7.p=1", "dataloader.train.mapper.augmentations"),
    ],
)
def test_unknown_key_names_the_nearest(override, nearest):
    with pytest.raises(ValueError) as error:
        load_config(LEAF, [override])
    assert nearest in str(error.value) and override in str(error.value)


@pytest.mark.parametrize("override", ["train.max_iter", "~train.max_iter", "a b=3", "x=y=z"])
def test_what_is_no_override_is_refused(override):
    with pytest.raises(ValueError, match="override"):
        load_config(LEAF, [override])


def test_plus_adds_a_key():
    cfg = apply_overrides(load_config(LEAF), ["+train.mine=3", "optimizer.lr=1e-5"])
    assert cfg.train.mine == 3 and cfg.optimizer.lr == 1e-5
