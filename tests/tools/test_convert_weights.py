"""tools/convert_weights.py as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hiera_det.checkpoint import read_checkpoint
from hiera_det.cli import main
from hiera_det.modeling.variants import build_hiera

TOOL = Path(__file__).parents[2] / "tools" / "convert_weights.py"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder: exit status, output, errors."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str, str]:
        status = main(["convert", *args])
        return status, *capsys.readouterr()

    return call


def light(variant: str, **kwargs) -> dict[str, Tensor]:
    """A state dict of the right shapes that takes no room: every tensor is one number."""
    with torch.device("meta"):
        state = build_hiera(variant, **kwargs).state_dict()
    return {k: torch.tensor([float(i)]).expand(v.shape) for i, (k, v) in enumerate(state.items())}


def mae() -> dict[str, Tensor]:
    return light("hiera_t") | {
        "encoder_norm.weight": torch.zeros(1),
        "decoder_pred.weight": torch.zeros(1),
        "multi_scale_fusion_heads.0.weight": torch.zeros(1),
    }


def test_it_says_what_it_does(run):
    torch.save({"model_state": mae()}, "mae.pth")
    status, out, err = run("mae.pth", "out.pth")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "mae.pth: hiera_t, official MAE, pos_embed absolute 56x56"
    assert "    24  blocks.*.attn.qkv.* -> blocks.*.attn.qkv.*" in lines
    assert (
        "     1  encoder_norm left out: follows the fused sum of the stages, not stage 4: no "
        "norm of a stage" in lines
    )
    assert lines[-1] == "out.pth: 153 converted, 3 left out"
    file = read_checkpoint("out.pth")
    assert_close(file.state, light("hiera_t"), rtol=0, atol=0)
    assert file.meta == {"variant": "hiera_t", "source": "official MAE", "pos_embed": "absolute"}
    assert sorted(os.listdir()) == ["mae.pth", "out.pth"]


def test_tables_are_converted_and_the_origin_is_kept(run):
    pytest.importorskip("safetensors")
    torch.save({"model_state": mae()}, "mae.pth")
    assert run("mae.pth", "win.safetensors", "--pos", "absolute_win")[0] == 0
    file = read_checkpoint("win.safetensors")
    assert file.meta["pos_embed"] == "absolute_win"
    assert file.state["pos_embed"].shape == (1, 96, 7, 7)
    status, out, _ = run("win.safetensors", "out.pth", "--pos", "absolute", "--to", "512")
    assert status == 0
    assert "win.safetensors: hiera_t, official MAE, pos_embed absolute_win 7x7" in out
    assert read_checkpoint("out.pth").state["pos_embed"].shape == (1, 128 * 128, 96)
    assert read_checkpoint("out.pth").meta["source"] == "official MAE"


def test_the_user_says_that_windows_are_sam2s(run):
    torch.save(light("sam2_hiera_t"), "timm.pth")
    assert run("timm.pth", "out.pth", "--variant", "sam2_hiera_t")[0] == 0
    assert read_checkpoint("out.pth").meta["variant"] == "sam2_hiera_t"


def renamed(state):
    state["blocks.0.norm_1.weight"] = state.pop("blocks.0.norm1.weight")


def missing(state):
    del state["blocks.0.norm1.weight"]


def misshapen(state):
    state["blocks.0.norm1.weight"] = torch.zeros(95)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (renamed, r"blocks.0.norm_1.weight (like blocks.0.norm1.weight?)"),
        (missing, "blocks.0.norm1.weight (96,) is missing"),
        (misshapen, "blocks.0.norm1.weight is (95,), not (96,)"),
        (dict.clear, "holds no tensors"),
        (lambda s: s.update({"cls_token": s["pos_embed"]}), "a plain vision transformer"),
    ],
)
def test_nothing_is_written_unless_all_fits(damage, message, run):
    state = mae()
    damage(state)
    torch.save({"model_state": state}, "in.pth")
    status, _, err = run("in.pth", "out.pth")
    assert status == 2
    assert err.startswith("error: in.pth") and message in err
    assert len(err.splitlines()) == 1
    assert os.listdir() == ["in.pth"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["no.pth", "out.pth"], "no.pth does not exist; nearest in .: in.pth"),
        (["in.pth", "in.pth"], "in.pth exists"),
        (["in.pth", "out.npz"], "write .pth or .safetensors"),
        (["in.pth", "no/out.pth"], "there is no folder no"),
        (["in.pth", "out.pth", "--to", "100"], "--to 100: a multiple of 32"),
        (["in.pth", "out.pth", "--pos", "absolute_win", "--to", "64"], "which fit any size"),
        (["in.pth", "out.pth", "--variant", "hiera_b"], "12 blocks are hiera_t"),
    ],
)
def test_wrong_arguments(args, message, run):
    torch.save({"model_state": mae()}, "in.pth")
    status, _, err = run(*args)
    assert status == 2
    assert message in err
    assert os.listdir() == ["in.pth"]


def test_the_script_exits_with_its_status(tmp_path):
    failed = subprocess.run(
        [sys.executable, str(TOOL), "no.pth", "out.pth"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith("error: no.pth does not exist")
