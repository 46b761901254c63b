"""The parts of a run that Detectron2 has not got."""

import logging
import math
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from torch.testing import assert_close

from hiera_det.config import load_config
from hiera_det.data.loaders import ResumableSampler
from hiera_det.engine import (
    IterationSeed,
    NonFiniteError,
    Trainer,
    check_config,
    check_output_dir,
    keep_old_config,
    last_checkpoint,
    start_seed,
    unused_path,
)
from hiera_det.engine.resume import Progress
from hiera_det.report.progress import ProgressPrinter

SHAPES = "shapes/mask_rcnn_hiera_shapes"


class Regression(torch.nn.Module):
    """Two losses of a linear layer, as a detector returns them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 1)

    def forward(self, batch):
        y = self.linear(batch)
        self.dtype = y.dtype
        return {"loss_a": y.float().square().mean(), "loss_b": y.float().abs().mean()}


def batches(n: int):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 4, generator=generator) for _ in range(n)]


def run_trainer(num_iter: int, **kwargs) -> tuple[Regression, Trainer]:
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, batches(num_iter), optimizer, **kwargs)
    trainer.train(0, num_iter)
    return model, trainer


def test_trainer_takes_the_steps_of_plain_pytorch():
    model, _ = run_trainer(5)
    expected = Regression()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for batch in batches(5):
        optimizer.zero_grad()
        sum(expected(batch).values()).backward()
        optimizer.step()
    assert_close(model.state_dict(), expected.state_dict(), atol=0, rtol=0)


def test_trainer_clips_the_norm_of_all_gradients():
    model, trainer = run_trainer(1, clip_grad_norm=1e-3)
    moved = torch.cat(
        [
            (a - b).flatten()
            for a, b in zip(model.parameters(), Regression().parameters(), strict=True)
        ]
    )
    assert moved.norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_trainer_runs_bf16_on_the_cpu():
    model, trainer = run_trainer(2, precision="bf16")
    assert model.dtype == torch.bfloat16
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in model.parameters())
    assert "grad_scaler" not in trainer.state_dict()


def test_trainer_refuses_what_the_device_cannot():
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        run_trainer(1, precision="fp16")
    with pytest.raises(ValueError, match="'fp8'"):
        run_trainer(1, precision="fp8")


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_trainer_stops_before_what_is_not_finite_reaches_the_weights(bad, clip):
    """The square root's gradient at 0 is infinite, though the loss is finite."""

    def loss(model, batch):
        y = model.linear(batch)
        return y.mean() * math.nan if bad == "loss" else (y.square().mean() * 0).sqrt() * 0

    model = Regression()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, batches(1), optimizer, loss=loss, clip_grad_norm=clip)
    with pytest.raises(NonFiniteError, match="iteration 0"):
        trainer.train(0, 1)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_loss_scaling_may_skip_steps_but_not_for_ever():
    """fp16's scaler, on the CPU: gradients overflow, the scale halves, the run goes on or ends."""
    model = Regression()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trainer = Trainer(model, batches(60), torch.optim.SGD(model.parameters(), lr=1e-9))
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    trainer.loss = lambda model, batch: model.linear(batch).abs().mean() * 2**10
    trainer.train(0, 1)
    assert trainer.num_skipped == 1
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    trainer.train(1, 20)  # 2**136 is infinite in float32, 2**126 is not
    assert trainer.num_skipped == 0 and trainer.grad_scaler.get_scale() < 2.0**120
    trainer.loss = lambda model, batch: model.linear(batch).mean() * math.inf
    with pytest.raises(NonFiniteError, match="21 steps in a row"):
        trainer.train(20, 60)


def test_gradient_norm_is_recorded_without_clipping():
    _, trainer = run_trainer(1)
    expected = Regression()
    sum(expected(batches(1)[0]).values()).backward()
    norm = torch.cat([p.grad.flatten() for p in expected.parameters()]).norm().item()
    assert trainer.storage.latest()["grad_norm"][0] == pytest.approx(norm, rel=1e-6)


def test_accumulated_steps_are_those_of_the_whole_batch():
    def loss(model, batch):
        return model.linear(batch).square().mean()

    models = []
    for num_steps in (1, 4):
        data = batches(3) if num_steps == 1 else [p for b in batches(3) for p in b.split(2)]
        model = Regression()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        Trainer(model, data, optimizer, loss=loss, num_steps=num_steps).train(0, 3)
        models.append(model.state_dict())
    assert_close(models[0], models[1])


# --------------------------------------------------------------------------- resume
@pytest.mark.parametrize("start", [0, 3, 25])
@pytest.mark.parametrize("rank, world_size", [(0, 1), (1, 3), (0, 10), (11, 13)])
def test_resumable_sampler_goes_on_where_it_stopped(start, rank, world_size, monkeypatch):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
    plain = iter(TrainingSampler(10, seed=5))
    expected = [next(plain) for _ in range(start + 20)][start:]
    resumed = iter(ResumableSampler(10, seed=5, start=start))
    assert [next(resumed) for _ in range(20)] == expected


def test_iteration_seed_makes_randomness_a_function_of_the_iteration():
    def draw(iteration: int, seed: int = 1):
        hook = IterationSeed(seed)
        hook.trainer = SimpleNamespace(iter=iteration)
        hook.before_step()
        return torch.rand(1).item(), np.random.rand(), random.random()

    first = draw(7)
    torch.rand(5), np.random.rand(5)
    assert draw(7) == first
    assert draw(8) != first and draw(7, seed=2) != first
    assert len(set(first)) == 3
    hook = IterationSeed(0)
    hook.load_state_dict(IterationSeed(3).state_dict())
    assert hook.seed == 3


def checkpoint(folder, iteration=41, **facts):
    state = {
        "model": {},
        "trainer": {"iteration": iteration, "hooks": {"IterationSeed": {"seed": 9}}},
        "hiera_det": facts,
    }
    torch.save(state, folder / "model_0000041.pth")
    (folder / "last_checkpoint").write_text("model_0000041.pth")
    return folder / "model_0000041.pth"


def test_last_checkpoint_is_found_or_the_fix_is(tmp_path):
    assert last_checkpoint(str(tmp_path)) is None
    path = checkpoint(tmp_path)
    assert last_checkpoint(str(tmp_path)) == path
    (tmp_path / "last_checkpoint").write_text("model_0000099.pth")
    with pytest.raises(FileNotFoundError, match="model_0000099.pth.*model_0000041.pth"):
        last_checkpoint(str(tmp_path))
    (tmp_path / "last_checkpoint").unlink()
    path.rename(tmp_path / "encoder.pth")
    with pytest.raises(ValueError, match="encoder.pth but no last_checkpoint"):
        last_checkpoint(str(tmp_path))


FACTS = dict(images_seen=42 * 8, total_batch_size=8, num_processes=1, max_iter=100)


@pytest.mark.parametrize(
    "batch, processes, max_iter, iteration, told",
    [
        (8, 1, 100, 42, None),
        (4, 1, 200, 84, "336 images are done, which are 84 of the new ones"),
        (16, 1, 50, 21, "goes on with image 336"),
        (8, 2, 100, 42, "had 1 processes and has 2"),
        (8, 1, 84, 42, "was 100 and is 84: the learning rate goes on as at 50 % .* at 42 %"),
    ],
)
def test_resume_goes_on_by_images_seen(
    tmp_path, caplog, batch, processes, max_iter, iteration, told
):
    path = checkpoint(tmp_path, **FACTS)
    progress = Progress.read(path, batch, processes, max_iter)
    assert (progress.iteration, progress.images_seen, progress.seed) == (iteration, 336, 9)
    assert (told is None) == (not caplog.messages)
    assert told is None or re.search(told, caplog.text)


def test_checkpoint_of_an_older_version_goes_on(tmp_path):
    progress = Progress.read(checkpoint(tmp_path), 8, 1, 100)
    assert (progress.iteration, progress.images_seen) == (42, 336)


def test_resume_of_what_cannot_go_on_names_the_file(tmp_path):
    path = checkpoint(tmp_path, **FACTS)
    with pytest.raises(ValueError, match="model_0000041.pth is of iteration 42, past .*=30"):
        Progress.read(path, 8, 1, 30)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="model_0000041.pth is damaged"):
        Progress.read(path, 8, 1, 100)
    torch.save({"model": {"a": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match="model_0000041.pth holds weights but no state of a run"):
        Progress.read(path, 8, 1, 100)


def test_start_seed():
    cfg = OmegaConf.create(dict(train=dict(seed=7)))
    assert start_seed(cfg) == 7
    cfg.train.seed = -1
    assert start_seed(cfg) >= 0


def test_output_dir_of_another_run_is_left_alone(tmp_path):
    check_output_dir(str(tmp_path / "new"), resume=False)
    with pytest.raises(FileNotFoundError, match="--resume.*nothing to resume"):
        check_output_dir(str(tmp_path), resume=True)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="already holds a run.*metrics.json.*--resume"):
        check_output_dir(str(tmp_path), resume=False)
    check_output_dir(str(tmp_path), resume=True)  # killed before its first checkpoint
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    check_output_dir(str(tmp_path), resume=True)


def test_old_files_keep_their_names(tmp_path):
    path = tmp_path / "config.yaml"
    assert unused_path(path) == path
    path.write_text("a: 1")
    keep_old_config(str(tmp_path))
    keep_old_config(str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.1.yaml",
        "config.2.yaml",
        "config.yaml",
    ]


# --------------------------------------------------------------------------- checks
def test_shipped_configs_pass_the_checks():
    for name in (SHAPES, "COCO/mask_rcnn_hiera_b"):
        check_config(load_config(name))


@pytest.mark.parametrize(
    "overrides, text",
    [
        (["dataloader.train.mapper.image_format=BGR"], "red for blue"),
        (["dataloader.test.mapper.image_format=BGR"], "dataloader.test.mapper.image_format is BGR"),
        (["model.input_format=BGR"], "model.input_format is BGR"),
        (["model.pixel_mean=[103.53,116.28,123.675]"], "in BGR order"),
        (["model.backbone.square_pad=128"], "square_pad=128"),
        (["dataloader.test.mapper.augmentations.0.max_size=1333"], "up to 1333 px"),
        (["dataloader.train.mapper.augmentations.2.crop_size=[256,100]"], "up to 256 px"),
    ],
)
def test_values_that_must_agree(overrides, text):
    with pytest.raises(ValueError, match=text):
        check_config(load_config(SHAPES, overrides))


# ------------------------------------------------------------------------- progress
def test_progress_line(caplog):
    caplog.set_level(logging.INFO)
    with EventStorage(0) as storage:
        for i in range(3):
            storage.iter = i
            storage.put_scalars(
                total_loss=3.0 - i, loss_cls=2.0, loss_mask=1.0, time=0.5, data_time=0.1
            )
            storage.put_scalar("images_per_second", 32.0)
            storage.put_scalar("lr", 1e-4, smoothing_hint=False)
            storage.put_scalar("max_mem", 2048.0, smoothing_hint=False)
        ProgressPrinter(max_iter=10).write()
    line = caplog.messages[-1]
    for part in (
        "iter 3/10",
        "eta 0:00:03",
        "loss 2.000",
        "cls 2.000, mask 1.000",
        "lr 1.00e-04",
        "0.500 s/it (20% waiting for data)  32 images/s",
        "mem 2.0 GiB",
    ):
        assert part in line, line


def test_input_bound_run_is_told_once(caplog):
    printer = ProgressPrinter(max_iter=1000)
    for i in (50, 60):
        with EventStorage(i) as storage:
            storage.put_scalars(total_loss=1.0, time=1.0, data_time=0.7)
            printer.write()
    assert sum("Input-bound" in r.message for r in caplog.records) == 1
