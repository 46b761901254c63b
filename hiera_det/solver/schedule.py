"""Schedules that are written in epochs and images and follow the batch size.

A config says how many epochs of how many images; iterations, milestones and warm-up are derived
when they are read, so that `dataloader.train.total_batch_size=16` or `train.max_iter=2000` on the
command line leaves nothing behind. (A warm-up stored as a *fraction* computed at import shrinks
with max_iter: 250 iterations of 184,375 become 3 of 2,000.)
"""

import math
from collections.abc import Sequence

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)

__all__ = ["iterations", "linear_lr", "warmup_cosine", "warmup_multistep"]


def iterations(epochs: float, images: int, batch_size: int) -> int:
    """Iterations of `epochs` passes over `images` in batches of `batch_size`, at least 1.

    In configs: `"${iterations:100,118000,${dataloader.train.total_batch_size}}"`.

    Raises:
        ValueError: negative epochs, no images, or a batch of none, with the keys that say so.
    """
    if not 0 <= epochs < math.inf:
        raise ValueError(
            f"{epochs} epochs (train.epochs, train.warmup_epochs): needed is 0 or more"
        )
    if images < 1:
        raise ValueError(f"train.epoch_images={images}: an epoch has 1 image or more")
    _check_batch_size(batch_size)
    return max(1, round(epochs * images / batch_size))


def linear_lr(base_lr: float, batch_size: int, base_batch_size: int) -> float:
    """`base_lr`, which is for `base_batch_size`, in proportion to the batch.

    In configs: `"${linear_lr:8e-4,${dataloader.train.total_batch_size},4096}"`.

    Raises:
        ValueError: a batch of none.
    """
    _check_batch_size(batch_size)
    return base_lr * batch_size / base_batch_size


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(
            f"dataloader.train.total_batch_size={batch_size}: a step takes 1 image or more"
        )


def warmup_multistep(
    max_iter: int,
    milestones: Sequence[float] = (8 / 9, 26 / 27),
    gamma: float = 0.1,
    warmup_iters: int = 250,
    warmup_factor: float = 0.001,
) -> ParamScheduler:
    """Linear warm-up, then a step down by `gamma` at each milestone.

    Args:
        max_iter: length of the run, in iterations.
        milestones: as fractions of the run. The default is ViTDet's: 163,889 and 177,546 of
            184,375 iterations.
        gamma: factor of each step.
        warmup_iters: length of the warm-up in iterations; at most a fifth of a short run.
        warmup_factor: where the warm-up starts, as a factor of the learning rate.

    Raises:
        ValueError: milestones that do not rise inside (0, 1).
    """
    milestones = list(milestones)
    if sorted(set(milestones)) != milestones or any(not 0 < m < 1 for m in milestones):
        raise ValueError(
            f"milestones={milestones} are fractions of the run that rise within (0, 1)"
        )
    updates = max(max_iter, 100)  # positions are relative; fvcore refuses fewer updates than steps
    steps = MultiStepParamScheduler(
        values=[gamma**i for i in range(len(milestones) + 1)],
        milestones=[round(m * updates) for m in milestones],
        num_updates=updates,
    )
    return _with_warmup(steps, max_iter, warmup_iters, warmup_factor)


def warmup_cosine(
    max_iter: int, end: float = 0.0, warmup_iters: int = 250, warmup_factor: float = 0.001
) -> ParamScheduler:
    """Linear warm-up, of at most a fifth of the run, then half a cosine.

    Args:
        max_iter: length of the run, in iterations.
        end: where the cosine ends, as a factor of the learning rate.
        warmup_iters, warmup_factor: as in `warmup_multistep`.
    """
    return _with_warmup(CosineParamScheduler(1.0, end), max_iter, warmup_iters, warmup_factor)


def _with_warmup(
    scheduler: ParamScheduler, max_iter: int, warmup_iters: int, warmup_factor: float
) -> ParamScheduler:
    return WarmupParamScheduler(
        scheduler,
        warmup_factor=warmup_factor,
        warmup_length=min(warmup_iters / max_iter, 0.2),
        warmup_method="linear",
    )
