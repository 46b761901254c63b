"""Recipe from the data: what it sets follows the data, is told, and gives way to overrides."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from hiera_det.cli import main
from hiera_det.config import load_config, save_config
from hiera_det.config.recipe import recipe
from hiera_det.data.own_data import data_overrides, part_overrides
from hiera_det.data.shapes import make_shapes
from hiera_det.data.statistics import Statistics, measure


def stats(side: float = 13, longer: int = 256, per_image: float = 28, without: int = 0, images=250):
    count = round(images * per_image)
    rng = np.random.default_rng(0)
    boxes = side / longer * rng.lognormal(0, 0.3, (count, 2))
    return Statistics(images, count, without, longer, longer, longer, per_image, boxes)


def values(found: list) -> dict:
    assert all(step.reason for step in found)
    return {step.key: step.value for step in found}


ANCHORS = "model.proposal_generator.anchor_generator.sizes"
SIZE, CROP = "dataloader.image_size", "dataloader.crop_size"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return make_shapes(
        tmp_path_factory.mktemp("recipe"), num_train=10, num_val=4, image_size=96, seed=3
    )


def of_files(files: Path) -> list[str]:
    return data_overrides(
        [
            str(files / "annotations/instances_train.json"),
            str(files / "train"),
            str(files / "annotations/instances_val.json"),
            str(files / "val"),
        ],
        [],
        dry_run=True,
    )


def test_small_objects_are_enlarged_and_have_small_anchors():
    nuclei, large = (values(recipe(stats(side), "cpu", {})) for side in (13, 100))
    assert nuclei[SIZE] == 512 and large[SIZE] == 160
    assert nuclei[ANCHORS][0][0] <= 24 < large[ANCHORS][0][0] == 32
    assert nuclei[CROP] < nuclei[SIZE] and nuclei["model.backbone.square_pad"] == 0
    assert CROP not in large and "model.backbone.square_pad" not in large
    # Few objects on a large image: crops large enough to hold some.
    sparse = values(recipe(stats(13, 256, per_image=2), "cpu", {}))
    assert sparse[CROP] > nuclei[CROP]


@pytest.mark.parametrize("side", [5, 13, 40, 150])
def test_anchors_fit_better_than_those_of_coco(side):
    data = stats(side)
    found = values(recipe(data, "cpu", {}))
    ours = np.array([size for (size,) in found[ANCHORS]])
    sides = data.sides(found[SIZE])
    distance = [
        np.abs(np.log2(sides[:, None] / s)).min(axis=1).mean() for s in (ours, ours * 0 + 32)
    ]
    assert distance[0] <= distance[1] + 1e-9
    assert (np.diff(np.log2(ours)) == 1).all()  # each level has twice the size


def test_a_run_on_the_cpu_takes_about_as_long_whatever_the_size_of_the_set():
    def num_images(images: int, side: float) -> float:
        found = values(recipe(stats(side, images=images, per_image=5), "cpu", {}))
        return found["train.epochs"] * images

    assert num_images(250, 13) == pytest.approx(num_images(500, 13), rel=0.02)
    assert num_images(250, 100) > num_images(250, 13)  # smaller images are faster
    assert num_images(20_000, 100) == 3 * 20_000  # but each is seen
    assert num_images(2, 13) == 150 * 2


def test_a_gpu_or_weights_keep_the_large_model():
    small, gpu, weights = (
        values(recipe(stats(), device, given))
        for device, given in (
            ("cpu", {}),
            ("cuda", {}),
            ("cpu", {"train.init_checkpoint": "mae_hiera_tiny_224.pth"}),
        )
    )
    key = "model.backbone.bottom_up.trunk.embed_dim"
    assert key in small and key not in gpu and key not in weights
    assert gpu["optimizer.lr"] < small["optimizer.lr"] > weights["optimizer.lr"]
    assert gpu[SIZE] > small[SIZE]


def test_objects_without_masks_make_it_boxes_alone(files, tmp_path):
    path = files / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    objects = [a for a in content["annotations"] if not a["iscrowd"]]
    del objects[0]["segmentation"]
    one = tmp_path / "one.json"
    one.write_text(json.dumps(content))
    assert measure(one).num_without_mask == 1 and measure(path).num_without_mask == 0
    cfg = load_config("custom/auto.py", [*of_files(files), f"dataloader.train_json={one}"])
    assert "mask_head" not in cfg.model.roi_heads and list(cfg.dataloader.evaluator.tasks) == [
        "bbox"
    ]
    assert any("1 of " in line and "no mask" in line for line in cfg.recipe.reasons)


def test_statistics_are_those_of_the_file(files):
    path = files / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    objects = [a for a in content["annotations"] if not a["iscrowd"]]
    found = measure(path)
    assert found.num_objects == len(objects)
    assert found.num_images == len({a["image_id"] for a in objects})
    assert found.longer == found.shorter == found.longest == 96
    sides = [(a["bbox"][2] * a["bbox"][3]) ** 0.5 for a in objects]
    np.testing.assert_allclose(found.sides(96), sides)
    np.testing.assert_allclose(found.sides(192), 2 * np.array(sides))


def test_overrides_win_and_what_follows_them_follows(files):
    plain = load_config("custom/auto.py", of_files(files))
    assert plain.dataloader.image_size == 160
    mine = load_config(
        "custom/auto.py",
        [
            *of_files(files),
            "dataloader.image_size=320",
            "dataloader.train.total_batch_size=2",
            "train.epochs=7",
            "optimizer.lr=3e-3",
            "model.roi_heads.box_head.fc_dims=[64]",
        ],
    )
    assert (
        mine.dataloader.image_size == 320 and mine.train.epochs == 7 and mine.optimizer.lr == 3e-3
    )
    assert list(mine.model.roi_heads.box_head.fc_dims) == [64]
    images = measure(files / "annotations/instances_train.json").num_images
    assert mine.train.max_iter == round(7 * images / 2) == mine.train.eval_period
    assert plain.dataloader.crop_size == 160 and mine.dataloader.crop_size == 256  # of the 320
    lines = [line for line in mine.recipe.reasons if ": yours; the recipe has " in line]
    assert {line.split("=")[0] for line in lines} == {
        "dataloader.image_size",
        "dataloader.train.total_batch_size",
        "train.epochs",
        "optimizer.lr",
        "model.roi_heads.box_head.fc_dims",
    }


def test_the_recipe_can_be_left_out_and_needs_data(files):
    base = load_config("custom/coco_json.py")
    for overrides in ([], [*of_files(files), "recipe.from_data=False"]):
        cfg = load_config("custom/auto.py", overrides)
        assert cfg.dataloader.image_size == base.dataloader.image_size == 1024
        assert not cfg.recipe.reasons


def test_the_saved_config_is_plain_and_loads_as_it_was(files, tmp_path):
    copied = tmp_path / "data"
    shutil.copytree(files, copied)
    cfg = load_config("custom/auto.py", of_files(copied))
    save_config(cfg, tmp_path / "config.yaml")
    shutil.rmtree(copied)
    again = load_config(tmp_path / "config.yaml", ["optimizer.lr=0.5"])
    assert not again.recipe.from_data and again.recipe.reasons == cfg.recipe.reasons
    assert again.optimizer.lr == 0.5
    for key in ("image_size", "crop_size"):
        assert again.dataloader[key] == cfg.dataloader[key]
    model = instantiate(again.model)
    assert sum(p.numel() for p in model.parameters()) < 3e6


# --------------------------------------------------------------------------------------- --data
def test_what_data_names(files, tmp_path, monkeypatch):
    train = files / "annotations/instances_train.json"
    val = files / "annotations/instances_val.json"

    def named(*paths) -> list[str]:
        found = data_overrides([str(p) for p in paths], [], dry_run=True)
        return [text.partition("=")[2] for text in found]

    full = [str(p) for p in (train, files / "train", val, files / "val")]
    assert named(*full) == full
    assert named(train, files / "train", val) == full  # the images of val.json are looked for
    assert named(train)[1] == str(files.resolve() / "train")
    with pytest.raises(ValueError, match="one too many"):
        named(*full, "more")
    with pytest.raises(ValueError, match="convert-data"):
        named(files)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        named(train, tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.json").write_text("")
    assert part_overrides(["a=b.json", "images", "x.y=1", "train.json"]) == (
        ["a=b.json", "images"],
        ["x.y=1", "train.json"],
    )


def test_a_fifth_is_kept_for_validation(files, tmp_path):
    train = files / "annotations/instances_train.json"
    out = [f"train.output_dir={tmp_path / 'run'}"]
    parts = []
    for _ in range(2):  # as a run that goes on
        named = [
            t.partition("=")[2]
            for t in data_overrides([str(train), str(files / "train")], out, False)
        ]
        assert Path(named[0]).parent == tmp_path / "run_data"
        parts.append([json.loads(Path(named[k]).read_text()) for k in (0, 2)])
        assert named[1] == named[3] == str(files / "train")
    assert parts[0] == parts[1] and [len(p["images"]) for p in parts[0]] == [8, 2]
    Path(named[0]).write_text("{}")
    with pytest.raises(FileExistsError, match="another split"):
        data_overrides([str(train), str(files / "train")], out, False)
    before = sorted(tmp_path.rglob("*"))
    data_overrides([str(train), str(files / "train")], out, dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_dry_run_tells_each_reason_and_leaves_nothing(files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = files / "annotations/instances_train.json"
    assert main(["train", "--data", str(train), str(files / "train"), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "\nRECIPE\n" in f"\n{text}"
    for key in (SIZE, ANCHORS, "train.epochs", "optimizer.lr", "train.checkpointer.period"):
        assert f"  {key}=" in text
    assert not list(tmp_path.iterdir())
    assert main(["train"]) == 2
    assert "--data train.json IMAGES" in capsys.readouterr().err


@pytest.mark.slow
def test_three_classes_of_boxes_train_evaluate_and_are_told(files, tmp_path):
    """Own data without masks: classes flow into heads, evaluation and checkpoint."""
    content = json.loads((files / "annotations/instances_train.json").read_text())
    names = ["größe", "a b", "<c>"]
    content["categories"] = [{"id": 10 * k, "name": name} for k, name in enumerate(names, 1)]
    content["annotations"] = [
        {"id": k, "image_id": a["image_id"], "category_id": 10 + k % 3 * 10, "bbox": a["bbox"]}
        for k, a in enumerate(content["annotations"], 1)
        if not a["iscrowd"]
    ]
    path = tmp_path / "my data.json"
    path.write_text(json.dumps(content))
    out = tmp_path / "run"
    argv = ["train", "--data", str(path), str(files / "train"), f"train.output_dir={out}"]
    assert (
        main([*argv, "train.max_iter=3", "train.num_pictures=1", "dataloader.image_size=96"]) == 0
    )
    saved = load_config(out / "config.yaml")
    assert saved.model.roi_heads.num_classes == 3 and list(saved.dataloader.class_names) == names
    checkpoint = torch.load(out / "model_final.pth", weights_only=True)
    assert checkpoint["hiera_det"]["num_classes"] == 3
    assert checkpoint["model"]["roi_heads.box_predictor.cls_score.weight"].shape[0] == 4
    rows = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert "bbox/AP-größe" in rows[-1] and not any("mask" in key for key in rows[-1])
    assert "Recipe: dataloader.image_size=96: yours" in (out / "log.txt").read_text()
