"""The config.yaml of a run: it loads anywhere, and its model needs no data."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog
from omegaconf import OmegaConf

from hiera_det.config import config_roots, load_config, resolved, save_config
from hiera_det.data.shapes import CLASS_NAMES, make_shapes

LEAVES = sorted(
    prefix + path.relative_to(root).as_posix()
    for prefix, root in config_roots().items()
    for path in root.rglob("*.py")
    if "common" not in path.parts and path.name != "__init__.py"
)


@pytest.fixture
def data(tmp_path):
    return make_shapes(tmp_path / "data", num_train=6, num_val=3, image_size=96, seed=2)


def of_files(folder) -> list[str]:
    return [
        f"dataloader.{split}_{key}={folder / path}"
        for split in ("train", "val")
        for key, path in (("json", f"annotations/instances_{split}.json"), ("images", split))
    ]


@pytest.mark.parametrize("name", LEAVES)
def test_saved_config_is_the_config(load, name, tmp_path):
    cfg = load(name)
    path = tmp_path / "config.yaml"
    save_config(cfg, path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]  # no pickle beside it
    back = load_config(path)
    assert OmegaConf.to_container(resolved(back)) == OmegaConf.to_container(
        OmegaConf.create(yaml.unsafe_load(path.read_text()), flags={"allow_objects": True})
    )
    assert back.train.max_iter == cfg.train.max_iter
    assert back.optimizer.lr == cfg.optimizer.lr
    assert back.train.output_dir == os.path.abspath(cfg.train.output_dir)


def test_plain_values_stand_in_the_file(data, tmp_path):
    save_config(load_config("custom/coco_json", of_files(data)), tmp_path / "config.yaml")
    saved = yaml.unsafe_load((tmp_path / "config.yaml").read_text())
    content = json.loads((data / "annotations/instances_train.json").read_text())
    seen = {a["image_id"] for a in content["annotations"] if not a["iscrowd"]}
    assert saved["model"]["roi_heads"]["num_classes"] == len(CLASS_NAMES)
    assert saved["train"]["epoch_images"] == len(seen)
    assert saved["dataloader"]["class_names"] == list(CLASS_NAMES)


def test_the_model_needs_no_data(data, tmp_path):
    save_config(load_config("custom/coco_json", of_files(data)), tmp_path / "config.yaml")
    shutil.rmtree(tmp_path / "data")
    # without hiera_det.config, as a script of Detectron2 would
    model = LazyConfig.load(str(tmp_path / "config.yaml")).model
    model.backbone.bottom_up.trunk.update(variant="hiera_t", global_attn_blocks=(5, 7, 9))
    assert instantiate(model).roi_heads.num_classes == len(CLASS_NAMES)


@pytest.mark.parametrize("relative", [False, True])
def test_datasets_are_there_from_another_folder(data, tmp_path, monkeypatch, relative):
    monkeypatch.chdir(tmp_path)
    files = of_files(data.relative_to(tmp_path) if relative else data)
    save_config(load_config("custom/coco_json", files), "config.yaml")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cfg = load_config("../config.yaml")
    assert cfg.dataloader.train_images == str(data / "train")
    name = cfg.dataloader.test.dataset.names
    assert name == cfg.dataloader.evaluator.dataset_name == f"instances_val ({data}/annotations)"
    assert len(DatasetCatalog.get(name)) == 3
    assert len(instantiate(cfg.dataloader.train.dataset)) == cfg.train.epoch_images


def test_overrides_of_a_saved_config_reach_what_follows(data, tmp_path):
    save_config(load_config("custom/coco_json", of_files(data)), tmp_path / "config.yaml")
    cfg = load_config(
        tmp_path / "config.yaml",
        ["dataloader.train.total_batch_size=2", "train.epochs=3", "dataloader.image_size=320"],
    )
    assert cfg.train.max_iter == round(3 * cfg.train.epoch_images / 2)
    assert cfg.model.backbone.square_pad == 320


def test_saving_needs_no_data(data, tmp_path):
    """A run is evaluated, and its config saved again, where the training data are not."""
    save_config(load_config("custom/coco_json", of_files(data)), tmp_path / "config.yaml")
    shutil.rmtree(tmp_path / "data")
    save_config(load_config(tmp_path / "config.yaml"), tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()


def test_what_yaml_cannot_hold_is_pickled_by_detectron2(tmp_path):
    cfg = load_config("COCO/mask_rcnn_hiera_t")
    cfg.train.mine = lambda: 3
    save_config(cfg, tmp_path / "config.yaml")
    assert (tmp_path / "config.yaml.pkl").is_file()


def test_what_is_missing_stays_missing(tmp_path):
    cfg = load_config("custom/coco_json")
    save_config(cfg, tmp_path / "config.yaml")
    back = load_config(tmp_path / "config.yaml")
    assert OmegaConf.is_missing(back.dataloader, "train_json")
    assert OmegaConf.is_interpolation(back.model.roi_heads, "num_classes")


def test_the_environment_is_resolved(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "a"))
    cfg = load_config("pretrain/mae_hiera_b")
    saved = resolved(cfg)
    monkeypatch.setenv("DETECTRON2_DATASETS", "b")
    assert saved.dataloader.train.dataset.root == str(tmp_path / "a/imagenet/train")
    assert cfg.dataloader.train.dataset.root == "b/imagenet/train"  # of a copy


def test_a_resolver_of_the_user_is_resolved():
    OmegaConf.register_new_resolver("twice", lambda x: 2 * x, replace=True)
    cfg = load_config("COCO/mask_rcnn_hiera_b", ["+train.mine='${twice:21}'"])
    assert OmegaConf.is_interpolation(cfg.train, "mine")
    saved = OmegaConf.to_container(resolved(cfg))
    assert saved["train"]["mine"] == 42


@pytest.mark.parametrize("weights", ["https://example.org/a.pth", "mae_hiera_base_224"])
def test_paths_of_a_saved_config(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    train = resolved(load_config("COCO/mask_rcnn_hiera_b", [f"train.init_checkpoint={weights}"]))
    assert train.train.init_checkpoint == weights
    assert train.train.output_dir == str(tmp_path / "output/mask_rcnn_hiera_b")
    assert train.dataloader.evaluator.output_dir == train.train.output_dir + "/inference"
    assert resolved(load_config("COCO/mask_rcnn_hiera_b")).train.init_checkpoint == ""


def test_a_file_with_the_name_of_published_weights_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mae_hiera_base_224").touch()
    cfg = load_config("COCO/mask_rcnn_hiera_b", ["train.init_checkpoint=mae_hiera_base_224"])
    assert resolved(cfg).train.init_checkpoint == str(tmp_path / "mae_hiera_base_224")


@pytest.mark.slow
def test_run_of_an_old_config_evaluates_from_another_folder(tmp_path):
    """What version 0.2.0 wrote for shapes: the dataset has to be registered, keys are added."""
    root = Path(__file__).parents[2]
    cfg = load_config("shapes/mask_rcnn_hiera_shapes")
    for key in ("ema", "lr_scaling", "images_per_process"):
        del cfg.train[key]
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    code = (
        "from hiera_det.config import load_config; from detectron2.data import MetadataCatalog;"
        "cfg = load_config('config.yaml'); print(cfg.train.ema.decay, cfg.train.max_iter,"
        "MetadataCatalog.get(cfg.dataloader.test.dataset.names).thing_classes)"
    )
    path = os.pathsep.join([str(root), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.stdout.strip() == f"0.9998 1200 {list(CLASS_NAMES)}", run.stderr
