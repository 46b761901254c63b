"""Loading and overriding configs."""

import pytest

import hiera_det
from hiera_det.config import apply_overrides, config_root, load_config

LEAF = "COCO/mask_rcnn_hiera_b.py"
LEAVES = sorted(
    str(p.relative_to(config_root()))
    for p in config_root().rglob("*.py")
    if "common" not in p.parts
)


@pytest.mark.parametrize("name", LEAVES)
def test_leaf_has_the_keys_of_lazyconfig(name):
    cfg = hiera_det.get_config(name)
    assert set(cfg) == {"model", "dataloader", "train", "optimizer", "lr_multiplier"}


@pytest.mark.parametrize("name", LEAVES)
def test_leaf_says_how_to_run_it(name):
    import ast

    doc = ast.get_docstring(ast.parse((config_root() / name).read_text()))
    assert "tools/lazyconfig_train_net.py" in doc and name in doc


@pytest.mark.parametrize("name", LEAVES)
def test_leaf_survives_yaml(load, name, tmp_path):
    from detectron2.config import LazyConfig

    cfg = load(name)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]  # no pickle beside it
    back = load_config(str(tmp_path / "config.yaml"))
    LazyConfig.save(back, str(tmp_path / "again.yaml"))
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()
    assert back.train.max_iter == cfg.train.max_iter


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
