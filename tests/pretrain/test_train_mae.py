"""The whole of a run: train, stop, resume, look, export, start a detector; and two processes."""

import argparse
import json
import logging
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image
from torch.testing import assert_close

import pretrain
from hiera_det.checkpoint import convert_file, load_init_checkpoint
from hiera_det.cli import pretrain as train_mae
from hiera_det.config import load_config
from hiera_det.engine import Trainer
from pretrain.mae import MaskedAutoencoderHiera, build_mae
from pretrain.pictures import reconstruct
from pretrain.weights import load_mae_checkpoint

ROOT = Path(pretrain.__file__).parents[1]
CONFIGS = sorted((ROOT / "pretrain/configs").glob("*.py"))
MAE_CONFIGS = [path for path in CONFIGS if path.name.startswith("mae_")]
TINY = [
    "model.embed_dim=8",
    "model.stages=[1,1,1,1]",
    "model.input_size=[64,64]",
    "model.decoder_embed_dim=16",
    "model.decoder_depth=1",
    "dataloader.train.total_batch_size=4",
    "optimizer.lr=1e-3",
    "train.max_iter=6",
    "train.log_period=1",
    "train.checkpointer.period=3",
    "train.warmup_epochs=0",
    "train.num_pictures=2",
]


@pytest.fixture(autouse=True)
def close_logs():
    """Detectron2 keeps the handlers of each output folder."""
    yield
    for name in ("", "fvcore", "detectron2", "hiera_det", "pretrain"):
        for handler in list(logging.getLogger(name).handlers):
            if isinstance(handler, logging.StreamHandler) and "LogCapture" not in str(handler):
                logging.getLogger(name).removeHandler(handler)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for k in range(10):
        pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((90, 70), Image.Resampling.BICUBIC).save(folder / f"{k}.png")
    return folder


def arguments(images, output, *opts: str, resume: bool = False) -> argparse.Namespace:
    return argparse.Namespace(
        config_file=str(ROOT / "pretrain/configs/mae_hiera_shapes.py"),
        resume=resume,
        eval_only=False,
        num_gpus=1,
        opts=[
            f"dataloader.train.dataset.root={images}",
            f"train.output_dir={output}",
            *TINY,
            *opts,
        ],
    )


def losses(output: Path) -> dict[int, float]:
    """By iteration; the running medians that Detectron2 writes."""
    lines = (json.loads(line) for line in (output / "metrics.json").read_text().splitlines())
    return {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "whole"
    train_mae.main(arguments(images, output))
    return output


def test_run_leaves_everything_behind(run):
    found = {path.name for path in run.iterdir()}
    assert found >= {"config.yaml", "log.txt", "metrics.json", "curves.png", "reconstructions.png"}
    assert "reconstructions.png" in (run / "report.html").read_text()
    log = (run / "log.txt").read_text()
    assert "6 iterations x 4 images = 2.4 epochs of 10 images" in log
    assert "batch of 4 images = 1 processes x 4 images x 1 steps; learning rate 0.001" in log
    assert "1 of 4 mask units are seen (mask_ratio 0.6)" in log
    assert sorted(losses(run)) == list(range(6))
    facts = torch.load(run / "model_final.pth", weights_only=True)["hiera_det"]
    assert facts["input_size"] == "64x64" and facts["pos_embed"] == "absolute_win"
    assert facts["pixel_mean"] == "123.675 116.28 103.53" and "variant" not in facts


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.5])
def test_killed_and_resumed_run_is_the_uninterrupted_one(
    images, tmp_path, monkeypatch, drop_path_rate
):
    opts = (f"model.drop_path_rate={drop_path_rate}",)
    run, output = tmp_path / "whole", tmp_path / "killed"
    train_mae.main(arguments(images, run, *opts))
    step = Trainer.run_step

    def die(self):
        if self.iter == 4:  # the last checkpoint is that of iteration 2
            raise RuntimeError("killed")
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_step", die)
        with pytest.raises(RuntimeError, match="killed"):
            train_mae.main(arguments(images, output, *opts))
    train_mae.main(arguments(images, output, *opts, resume=True))
    state, whole = (
        torch.load(folder / "model_final.pth", weights_only=True) for folder in (output, run)
    )
    assert_close(state["model"], whole["model"], rtol=0, atol=0)
    moments, expected = (s["trainer"]["optimizer"]["state"] for s in (state, whole))
    assert_close(moments, expected, rtol=0, atol=0)


def test_accumulation_equals_the_whole_batch(run, images, tmp_path):
    output = tmp_path / "accumulated"
    train_mae.main(arguments(images, output, "train.images_per_process=1"))
    assert_close(losses(output), losses(run), rtol=1e-4, atol=1e-5)
    assert "1 processes x 1 images x 4 steps" in (output / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["launch", "torchrun"])
def test_two_processes_equal_one(run, images, tmp_path, launcher):
    output = tmp_path / launcher
    script = [str(ROOT / "pretrain/train_mae.py")]
    how = (
        [sys.executable, *script, "--num-gpus", "2"]
        if launcher == "launch"
        else [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--standalone", "--nproc-per-node", "2", *script),
        ]
    )
    args = arguments(images, output)
    subprocess.run([*how, "--config-file", args.config_file, *args.opts], check=True, timeout=300)
    assert "2 processes x 2 images x 1 steps" in (output / "log.txt").read_text()
    assert_close(losses(output), losses(run), rtol=1e-4, atol=1e-5)


def test_loss_that_is_not_finite_stops_before_the_weights_change(images, tmp_path):
    run = tmp_path / "run"
    train_mae.main(arguments(images, run, "train.max_iter=3"))
    before = {p.name: p.stat().st_mtime_ns for p in run.glob("*.pth")}
    opts = ("train.max_iter=20", "optimizer.lr=1e30")
    with pytest.raises(FloatingPointError, match="weights have not changed.*optimizer.lr"):
        train_mae.main(arguments(images, run, *opts, resume=True))
    assert {p.name: p.stat().st_mtime_ns for p in run.glob("*.pth")} == before
    assert (run / "last_checkpoint").read_text() == "model_final.pth"
    train_mae.main(arguments(images, run, "train.max_iter=20", resume=True))
    assert sorted(losses(run))[-1] == 19 and np.isfinite(losses(run)[19])


def test_options_of_the_optimizer_can_be_changed_at_a_resume(run, images, tmp_path, caplog):
    output = tmp_path / "run"
    train_mae.main(arguments(images, output, "train.max_iter=3"))
    train_mae.main(arguments(images, output, "optimizer.lr=1e-9", resume=True))
    assert "lr of the checkpoint's optimizer was 0.001; it is 1e-09 now" in caplog.text
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert max(line["lr"] for line in lines if line["iteration"] > 3) <= 1e-9


def test_without_pictures_none_is_drawn(images, tmp_path):
    train_mae.main(arguments(images, tmp_path, "train.num_pictures=0", "train.max_iter=1"))
    assert not (tmp_path / "reconstructions.png").exists()


def test_resume_of_another_run_raises(images, tmp_path):
    train_mae.main(arguments(images, tmp_path, "train.max_iter=1"))
    with pytest.raises(ValueError, match="mask_ratio was 0.6 and is 0.5"):
        train_mae.main(arguments(images, tmp_path, "model.mask_ratio=0.5", resume=True))
    # config.yaml is still that of the run, as the error says
    assert load_config(tmp_path / "config.yaml").model.mask_ratio == 0.6
    assert not (tmp_path / "config.1.yaml").exists()


def test_resume_with_another_batch_goes_on_by_images_seen(images, tmp_path, caplog):
    train_mae.main(arguments(images, tmp_path, "train.max_iter=3"))
    opts = ("dataloader.train.total_batch_size=2", "train.max_iter=9")
    train_mae.main(arguments(images, tmp_path, *opts, resume=True))
    assert "3 iterations with 12 images are done, which are 6 of the new ones" in caplog.text
    facts = torch.load(tmp_path / "model_final.pth", weights_only=True)["hiera_det"]
    assert (facts["images_seen"], facts["total_batch_size"]) == (12 + 3 * 2, 2)
    assert sorted(losses(tmp_path)) == [0, 1, 2, 6, 7, 8]


def test_clipping_and_bf16_run(images, tmp_path):
    opts = ("train.amp.enabled=True", "train.clip_grad_norm=0.01", "train.max_iter=2")
    train_mae.main(arguments(images, tmp_path / "run", *opts))
    metrics = (tmp_path / "run" / "metrics.json").read_text()
    assert "grad_norm" in metrics and "images_per_second" in metrics


# ------------------------------------------------------------------------------------- afterwards
def test_export_starts_the_detector_of_the_quick_start(tmp_path):
    cfg = load_config(str(ROOT / "pretrain/configs/mae_hiera_shapes.py"))
    model = instantiate(cfg.model)
    torch.save({"model": model.state_dict()}, tmp_path / "model_final.pth")
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    message = convert_file(str(tmp_path), str(tmp_path / "encoder.pth"))
    assert "decoder" in message and "fusion" in message
    detector = instantiate(load_config("shapes/mask_rcnn_hiera_shapes.py").model)
    trunk = detector.backbone.bottom_up.trunk
    verdict = load_init_checkpoint(detector, str(tmp_path / "encoder.pth"))
    total = len(trunk.state_dict())
    assert f"backbone {total}/{total} tensors" in verdict
    encoder = {k: v for k, v in model.state_dict().items() if k in trunk.state_dict()}
    assert_close(trunk.state_dict(), encoder, rtol=0, atol=0)


def test_export_keeps_what_the_run_says_of_itself(run, tmp_path):
    convert_file(str(run), str(tmp_path / "encoder.pth"))
    meta = torch.load(tmp_path / "encoder.pth", weights_only=True)["hiera_det"]
    assert meta["source"] == "MAE pretraining" and meta["mask_ratio"] == 0.6


def test_export_of_a_folder_without_a_run_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="no last_checkpoint"):
        convert_file(str(tmp_path), str(tmp_path / "encoder.pth"))


def test_visualize_draws_four_columns(run, images, tmp_path):
    cfg = load_config(str(run / "config.yaml"))
    path = reconstruct(cfg, str(run / "model_final.pth"), str(tmp_path / "a.png"), 3, seed=0)
    assert Image.open(path).size == (4 * (64 + 4) + 4, 3 * (64 + 4) + 4)
    with pytest.raises(FileExistsError, match="a.png"):
        reconstruct(cfg, str(run / "model_final.pth"), str(path), 3, seed=0)


def test_visualize_of_an_encoder_raises(run, tmp_path):
    convert_file(str(run), str(tmp_path / "encoder.pth"))
    with pytest.raises(ValueError, match="has no decoder"):
        reconstruct(None, str(tmp_path / "encoder.pth"), str(tmp_path / "a.png"), 1, seed=0)


# ------------------------------------------------------------------------------------- weights
SMALL = dict(input_size=(64, 64), decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)


def small(**kwargs) -> MaskedAutoencoderHiera:
    return build_mae("hiera_t", embed_dim=8, stages=(1, 1, 1, 1), **(SMALL | kwargs))


@pytest.mark.parametrize("pos_embed", ["absolute", "absolute_win"])
def test_autoencoder_continues_with_its_decoder(tmp_path, pos_embed):
    source, model = small(), small(pos_embed=pos_embed)
    torch.save({"model_state": source.state_dict()}, tmp_path / "mae.pth")  # the official layout
    verdict = load_mae_checkpoint(model, str(tmp_path / "mae.pth"))
    assert "new" not in verdict and ("approximated" in verdict) == (pos_embed == "absolute_win")
    same = {k: v for k, v in source.state_dict().items() if not k.startswith("pos_embed")}
    assert_close({k: model.state_dict()[k] for k in same}, same, rtol=0, atol=0)


def test_encoder_alone_leaves_the_decoder_new(tmp_path):
    source, model = small(), small()
    torch.save({"model": source.state_dict()}, tmp_path / "mae.pth")
    convert_file(str(tmp_path / "mae.pth"), str(tmp_path / "encoder.pth"))
    assert "decoder and fusion are new" in load_mae_checkpoint(model, str(tmp_path / "encoder.pth"))
    assert_close(model.blocks.state_dict(), source.blocks.state_dict(), rtol=0, atol=0)


def test_checkpoint_of_another_decoder_raises_and_loads_nothing(tmp_path):
    model = small(decoder_embed_dim=32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.save({"model": small().state_dict()}, tmp_path / "mae.pth")
    with pytest.raises(ValueError, match="does not fit the model.*decoder_"):
        load_mae_checkpoint(model, str(tmp_path / "mae.pth"))
    assert_close(model.state_dict(), before, rtol=0, atol=0)


# ------------------------------------------------------------------------------------- configs
@pytest.mark.parametrize("path", MAE_CONFIGS, ids=lambda path: path.stem)
def test_config_builds_and_saves(path, tmp_path):
    from detectron2.config import LazyConfig

    cfg = load_config(str(path))
    assert sorted(cfg) == ["dataloader", "lr_multiplier", "model", "optimizer", "train"]
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert not list(tmp_path.glob("*.pkl"))
    saved = load_config(str(tmp_path / "config.yaml"))
    assert saved.train.max_iter == cfg.train.max_iter
    with torch.device("meta"):
        model = instantiate(cfg.model)
    windows = "abswin" in path.stem or "shapes" in path.stem
    assert model.pos_embed_kind == ("absolute_win" if windows else "absolute")


def test_learning_rate_and_schedule_follow_the_batch():
    path = str(ROOT / "pretrain/configs/mae_hiera_b.py")
    cfg = load_config(path)
    assert (cfg.optimizer.lr, cfg.train.max_iter) == (8e-4, 500456)  # 1600 epochs
    cfg = load_config(path, ["dataloader.train.total_batch_size=512"])
    assert cfg.optimizer.lr == pytest.approx(1e-4)
    assert cfg.lr_multiplier.warmup_iters == round(40 * 1_281_167 / 512)


# ------------------------------------------------------------------------------------- commands
@pytest.mark.parametrize(
    "script",
    [
        path
        for path in sorted((ROOT / "pretrain").glob("*.py"))
        if path.read_text().startswith("#!")
    ],
    ids=lambda path: path.stem,
)
def test_script_has_help_with_an_example(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script.name, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 0
    assert "hiera-det" in capsys.readouterr().out
