"""--dry-run: what it says is what is there, and it leaves nothing behind."""

import pytest
import torch
from detectron2.data.datasets import register_coco_instances

from hiera_det.checkpoint import write_checkpoint
from hiera_det.config import load_config
from hiera_det.data.shapes import make_shapes, register_shapes
from hiera_det.modeling.variants import build_hiera
from hiera_det.report.cost import meta_model
from hiera_det.report.dry_run import block_table, dry_run

CONFIG = "shapes/mask_rcnn_hiera_shapes"
COLUMNS = ("block", "stage", "dim", "heads", "tokens", "window", "pool", "drop path")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    make_shapes(root, num_train=12, num_val=6, image_size=96, seed=3)
    register_shapes(root)
    yield root
    register_shapes()


def small_config(*overrides: str):
    fixed = ["optimizer.lr=1e-3", "dataloader.train.total_batch_size=8", "train.epochs=4"]
    fixed += ["train.device=cpu", "dataloader.image_size=96"]
    return load_config(CONFIG, [*fixed, *overrides])


def section(text: str, title: str) -> list[str]:
    """The lines of a section of the report."""
    (found,) = (part for part in text.split("\n\n") if part.startswith(title))
    return [line.strip() for line in found.splitlines()[1:]]


def test_all_sections(shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(shapes.rglob("*"))
    text = dry_run(small_config("train.epoch_images=24", "optimizer.params.layer_decay=0.5"))
    assert list(tmp_path.iterdir()) == [] and sorted(shapes.rglob("*")) == before  # writes nothing
    titles = ["TRUNK", "PARAMETERS", "WEIGHTS", "OPTIMIZER", "SCHEDULE", "DATA"]
    assert [part.split("\n")[0] for part in text.split("\n\n")] == titles
    parameters = sum(p.numel() for p in meta_model(small_config().model).parameters())
    assert section(text, "PARAMETERS")[-1].split()[:2] == ["total", f"{parameters:,}"]
    assert section(text, "WEIGHTS")[0].startswith("none: everything starts at random")
    assert section(text, "SCHEDULE")[:2] == [
        "12 iterations x 8 images = 4.00 epochs of 24 images",
        "batch 8 = 8 images x 1 process",
    ]


def test_optimizer_groups_are_listed(shapes):
    lines = section(dry_run(small_config("optimizer.params.layer_decay=0.5")), "OPTIMIZER")
    assert lines[0] == "AdamW, 14 groups"  # embeddings, 5 blocks, all else; with decay and without
    rows = [line.split() for line in lines[2:]]
    parameters = sum(p.numel() for p in meta_model(small_config().model).parameters())
    assert sum(int(row[1].replace(",", "")) for row in rows) == parameters
    assert rows[0][2:] == ["1.56e-05", "0", "trunk.pos_embed,", "trunk.pos_embed_window"]
    assert rows[-1][2:4] == ["0.001", "0.05"]


def test_data_are_counted(shapes):
    data = "\n".join(section(dry_run(small_config()), "DATA"))
    assert "train: 12 images are used" in data and "test: 6 images are used" in data
    assert "longer side of the images: 96 to 96 px" in data
    assert "6 classes with objects: " in data
    assert "NOTE: train.epoch_images=2,000 is not this number" in data


def test_missing_data_are_said(tmp_path):
    register_coco_instances("absent", {}, str(tmp_path / "absent.json"), str(tmp_path))
    cfg = small_config(
        "dataloader.train.dataset.names=absent", "dataloader.test.dataset.names=absent"
    )
    data = section(dry_run(cfg), "DATA")
    assert data[0] == "not on this machine, so not checked:"
    assert any("absent.json: file missing" in line for line in data)


def test_bad_data_stop(shapes):
    with pytest.raises(ValueError, match="num_classes"):
        dry_run(small_config("model.roi_heads.num_classes=5"))


def test_weights_are_loaded_for_the_verdict(shapes, tmp_path):
    cfg = small_config(f"train.init_checkpoint={tmp_path}/trunk.pth")
    trunk = build_hiera("hiera_b", embed_dim=32, stages=(1, 1, 2, 1), pos_embed="absolute_win")
    write_checkpoint(str(tmp_path / "trunk.pth"), trunk.state_dict(), {})
    lines = section(dry_run(cfg), "WEIGHTS")
    assert lines[0].startswith("backbone 70/70 tensors")
    assert lines[-1] == "new: fpn, rpn, roi_heads, out norms"
    torch.save({"model": {"a.weight": torch.zeros(1)}}, tmp_path / "trunk.pth")
    with pytest.raises(ValueError, match="no Hiera"):
        dry_run(cfg)


@pytest.mark.parametrize("max_iter, noted", [(250, False), (240, True), (10, True)])
def test_a_run_shorter_than_its_warmup(shapes, max_iter, noted):
    schedule = section(dry_run(small_config(f"train.max_iter={max_iter}")), "SCHEDULE")
    assert schedule[-1].startswith("NOTE: the run is short: its warm-up of 50") == noted


def test_a_batch_that_cannot_be_shared(shapes, monkeypatch):
    monkeypatch.setattr("hiera_det.report.dry_run.comm.get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="total_batch_size=8 is not divisible by 3 processes"):
        dry_run(small_config())


@pytest.mark.parametrize(
    "variant, image_size, windows",
    [
        # the windows of the published code, in tokens of the input of each block
        ("sam2_hiera_t", 1024, "8 8 4 4 14+pad global 14+pad global 14+pad global 14+pad 7+pad"),
        ("sam2_hiera_t", 896, "8 8 4 4 14 global 14 global 14 global 14 7"),
        (
            "sam2_hiera_l",
            1024,
            f"8 8 8 4 4 4 4 4 4 {'16 ' * 14}global {'16 ' * 9}global {'16 ' * 9}global 16 8 8 8",
        ),
        ("hiera_t", 224, "8 8 4 4 global global global global global global global global"),
    ],
)
def test_block_table(variant, image_size, windows):
    with torch.device("meta"):
        trunk = build_hiera(variant)
    header, *rows, position = block_table(trunk, image_size)
    assert header.split() == " ".join(COLUMNS).split()
    assert [row.split()[5] for row in rows] == windows.split()
    pooled = [i for i, row in enumerate(rows) if " 2x2 " in row]
    assert pooled == [end + 1 for end in trunk.stage_ends[:-1]]
    assert rows[0].split()[4] == f"{image_size // 4}²"
    assert rows[-1].split()[4] == f"{image_size // 32}²"
    assert position.startswith("position: absolute")


def test_frozen_parameters_are_counted(shapes):
    text = dry_run(small_config("model.backbone.bottom_up.freeze_at=1"))
    trunk = section(text, "PARAMETERS")[1]
    # tables 32 x (49 + 64), stem 3 x 7 x 7 x 32 + 32, block 0: 12 x 32 ** 2 + 13 x 32
    assert "(21,056 frozen)" in trunk
