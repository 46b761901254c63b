"""Schedules against ViTDet's published numbers."""

import pytest
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from hiera_det.config import load_config
from hiera_det.solver import iterations, linear_lr, warmup_multistep
from hiera_det.solver.schedule import warmup_cosine


def test_iterations_of_vitdet():
    # Detectron2's ViTDet configs: 100 epochs = 184,375 iterations of 64 of 118,000 images
    assert iterations(100, 118_000, 64) == 184_375
    assert iterations(36, 118_000, 64) == 66_375
    assert iterations(0.001, 100, 64) == 1


@pytest.mark.parametrize(
    "epochs, images, batch_size, key",
    [
        (-1, 100, 4, "train.epochs"),
        (float("nan"), 100, 4, "train.epochs"),
        (float("inf"), 100, 4, "train.epochs"),
        (1, 0, 4, "train.epoch_images=0"),
        (1, 100, 0, "dataloader.train.total_batch_size=0"),
        (1, 100, -4, "dataloader.train.total_batch_size=-4"),
    ],
)
def test_no_iterations_of_nothing(epochs, images, batch_size, key):
    with pytest.raises(ValueError, match=key):
        iterations(epochs, images, batch_size)


@pytest.mark.parametrize(
    "override, key",
    [
        ("train.epochs=-1", "train.epochs"),
        ("dataloader.train.total_batch_size=0", "dataloader.train.total_batch_size=0"),
    ],
)
def test_a_config_names_the_key(override, key):
    with pytest.raises(ValueError, match=key):
        load_config("COCO/mask_rcnn_hiera_b", [override]).train.max_iter  # noqa: B018


def test_a_warmup_of_no_epochs_is_the_shortest():
    assert iterations(0, 100, 4) == 1


def test_linear_lr():
    assert linear_lr(8e-4, 512, 4096) == pytest.approx(1e-4)
    with pytest.raises(ValueError, match="dataloader.train.total_batch_size=0"):
        linear_lr(8e-4, 0, 4096)


def test_warmup_multistep_equals_vitdets_schedule():
    ours = warmup_multistep(184_375)
    theirs = WarmupParamScheduler(
        MultiStepParamScheduler(
            [1.0, 0.1, 0.01], milestones=[163_889, 177_546], num_updates=184_375
        ),
        warmup_length=250 / 184_375,
        warmup_factor=0.001,
    )
    for i in [0, 1, 100, 249, 250, 251, 163_888, 163_889, 163_890, 177_545, 177_547, 184_374]:
        assert ours(i / 184_375) == pytest.approx(theirs(i / 184_375), rel=1e-9), i


@pytest.mark.parametrize("max_iter", [1000, 2000, 184_375])
@pytest.mark.parametrize("make", [warmup_multistep, warmup_cosine])
def test_warmup_keeps_its_length_in_iterations(make, max_iter):
    schedule = make(max_iter, warmup_iters=200)
    assert schedule(0.0) == pytest.approx(0.001)
    half = 0.5 * (0.001 + schedule(200 / max_iter))
    assert schedule(100 / max_iter) == pytest.approx(half, rel=2e-2)
    assert schedule(200 / max_iter) > schedule(199 / max_iter)
    assert schedule(202 / max_iter) <= schedule(201 / max_iter)


def test_cosine_ends_where_it_should():
    schedule = warmup_cosine(100, end=0.1, warmup_iters=10)
    assert schedule(1.0) == pytest.approx(0.1)


@pytest.mark.parametrize("milestones", [[0.9, 0.8], [163_889, 177_546], [0.5, 0.5], [0.0]])
def test_milestones_are_fractions(milestones):
    with pytest.raises(ValueError, match="fractions of the run"):
        warmup_multistep(100, milestones)


@pytest.mark.parametrize("batch", [64, 16, 1])
def test_overrides_leave_nothing_behind(batch):
    from detectron2.config import instantiate

    cfg = load_config("COCO/mask_rcnn_hiera_b", [f"dataloader.train.total_batch_size={batch}"])
    n = cfg.train.max_iter
    assert n * batch == pytest.approx(100 * 118_000, abs=batch)
    schedule = instantiate(cfg.lr_multiplier)
    assert schedule(0.88) == 1.0 and schedule(0.9) == pytest.approx(0.1)
    assert schedule(125 / n) == pytest.approx(0.5, rel=1e-2)


def test_a_run_shorter_than_its_warmup_still_learns():
    schedule = warmup_multistep(100, warmup_iters=250)
    assert schedule(0.21) == 1.0 and schedule(0.1) == pytest.approx(0.5, rel=1e-2)


@pytest.mark.parametrize("max_iter", [1, 2, 3])
def test_a_run_of_a_few_iterations_has_a_schedule(max_iter):
    schedule = warmup_multistep(max_iter)
    assert all(0 < schedule(i / max_iter) <= 1 for i in range(max_iter))
