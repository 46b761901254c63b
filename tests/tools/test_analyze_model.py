"""tools/analyze_model.py: counts against published numbers, and the model zoo's table."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from torch.utils.flop_counter import FlopCounterMode

from hiera_det.cli import main
from hiera_det.config import config_root, load_config
from hiera_det.modeling.variants import build_hiera
from hiera_det.report import zoo
from hiera_det.report.cost import count_macs, count_parameters, meta_model

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "MODEL_ZOO.md"


@pytest.mark.parametrize(
    "variant, paper",
    [("t", 5), ("s", 6), ("b", 9), ("bplus", 13), ("l", 40), ("h", 125)],
)
def test_multiply_adds_are_the_papers(variant, paper):
    """arXiv 2306.00989, table 2, at 224 px. The method of `count_macs`, without a detector."""
    with torch.device("meta"):
        trunk = build_hiera(f"hiera_{variant}")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            trunk(torch.empty(1, 3, 224, 224))
    assert round(counter.get_total_flops() / 2e9) == paper


@pytest.mark.parametrize("name, trillions", [("b", 0.6), ("bplus", 0.65), ("l", 1.2)])
def test_detectors_cost_what_the_paper_says(name, trillions):
    """Table 10: 0.6, 0.6, 1.2 T; ours has three global blocks, which the paper leaves open."""
    cfg = load_config(f"COCO/mask_rcnn_hiera_{name}")
    total = sum(count_macs(meta_model(cfg.model), 1024).values())
    assert total / 1e12 == pytest.approx(trillions, rel=0.05)


def test_parts_by_hand():
    """The smallest config at 64 px: convolutions and matrix products counted on paper."""
    overrides = [
        "model.backbone.bottom_up.trunk.stages=[1,1,1,1]",
        "model.backbone.out_channels=8",
        "model.proposal_generator.head.in_channels=8",
        "model.roi_heads.mask_head.conv_dims=[8,8]",
        "model.roi_heads.mask_head.input_shape.channels=8",
        "model.roi_heads.box_head.input_shape.channels=8",
        "model.roi_heads.box_head.fc_dims=[16]",
        "model.roi_heads.box_predictor.input_shape.channels=16",
    ]
    cfg = load_config("shapes/mask_rcnn_hiera_shapes", overrides)
    macs = count_macs(meta_model(cfg.model), 64, num_boxes=10, num_masks=2)
    maps = [16**2, 8**2, 4**2, 2**2]  # p2..p5 at 64 px; p6 is one cell
    widths = [32, 64, 128, 256]
    trunk = 16**2 * 32 * 3 * 7 * 7
    for stage, (tokens, c) in enumerate(zip(maps, widths, strict=True)):
        before, kv = (c, tokens) if stage == 0 else (c // 2, 4 * tokens)
        group = kv if stage == 3 else 64 if stage < 2 else 16  # keys that a query sees: the lag
        trunk += kv * before * 3 * c + 2 * tokens * group * c  # qkv, attention
        trunk += tokens * c * c + 2 * tokens * c * 4 * c  # projection, MLP
        trunk += kv * before * c if stage else 0  # skip, before it is pooled
    assert macs["trunk"] == trunk
    assert macs["fpn"] == sum(n * (c * 8 + 9 * 8 * 8) for n, c in zip(maps, widths, strict=True))
    assert macs["rpn"] == (sum(maps) + 1) * (9 * 8 * 8 + 8 * 3 * 5)
    box = 8 * 7 * 7 * 16 + 16 * (7 + 4)  # the boxes are those of all classes
    mask = 14**2 * 9 * 8 * 8 + 14**2 * 4 * 8 * 8 + 28**2 * 8 * 6
    assert macs["roi_heads"] == 10 * box + 2 * mask


def test_a_cascade_has_three_box_heads():
    macs = {
        name: count_macs(meta_model(load_config(f"COCO/{name}_rcnn_hiera_t").model), 256)
        for name in ("mask", "cascade_mask")
    }
    one_conv = 1000 * 7 * 7 * 9 * 256 * 256
    more = macs["cascade_mask"].pop("roi_heads") - macs["mask"].pop("roi_heads")
    assert more / one_conv == pytest.approx(2 * (4 + 12544 * 1024 * 1000 / one_conv), rel=0.01)
    assert macs["cascade_mask"] == macs["mask"]


def test_parameters_are_all_counted():
    model = instantiate(load_config("shapes/mask_rcnn_hiera_shapes").model)
    assert sum(count_parameters(model).values()) == sum(p.numel() for p in model.parameters())


def test_every_coco_config_is_in_the_zoo():
    text = ZOO.read_text()
    for path in (config_root() / "COCO").glob("*.py"):
        if path.name != "__init__.py":
            assert f"[{path.stem}](configs/COCO/{path.name})" in text


def test_rows_of_the_zoo():
    """The smallest and one that the paper measured; `test_the_zoo_is_generated` takes all."""
    text = ZOO.read_text()
    for name in ("mask_rcnn_hiera_t", "mask_rcnn_hiera_b"):
        assert zoo._row(name) in text
    assert "| 73 | 0.6 | 52.2 | 46.3 |" in zoo._row("mask_rcnn_hiera_b")


@pytest.mark.slow
def test_the_zoo_is_generated(tmp_path):
    copy = tmp_path / "MODEL_ZOO.md"
    copy.write_text(ZOO.read_text())
    zoo.replace_table(copy)
    assert copy.read_text() == ZOO.read_text(), f"run: {zoo.BEGIN}"


def test_a_file_without_markers(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("nothing\n")
    with pytest.raises(ValueError, match="README.md has no line '<!-- made by"):
        zoo.replace_table(path)
    assert path.read_text() == "nothing\n"


def test_as_a_user_runs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["analyze", "--config-file", "shapes/mask_rcnn_hiera_shapes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "shapes/mask_rcnn_hiera_shapes at 160x160 px, 1000 boxes, 100 masks"
    assert lines[-1].split()[:2] == ["total", "2,218,112"]


@pytest.mark.parametrize("args", [[], ["--table", "--config-file", "x"]])
def test_what_makes_no_sense(args, capsys):
    with pytest.raises(SystemExit) as error:
        main(["analyze", *args])
    assert error.value.code == 2 and "error: " in capsys.readouterr().err


def test_the_table_takes_no_overrides(capsys):
    assert main(["analyze", "--table", "a.md", "b=1"]) == 2
    assert capsys.readouterr().err.startswith("error: --table takes no overrides")
