"""What pretraining and fine-tuning share: setting up a run, and running it."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.engine import HookBase, create_ddp_model, default_setup, default_writers, hooks
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import Dataset

from hiera_det import engine
from hiera_det.config import find_config, load_config
from hiera_det.report.curves import plot_metrics

from .data import split_batch
from .trainer import AccumulatingTrainer, RunFacts

__all__ = ["ddp_options", "fit", "prepare"]

logger = logging.getLogger(__name__)


def prepare(
    args, complete: Callable[[DictConfig, Dataset | None], None] = lambda cfg, dataset: None
) -> tuple[DictConfig, Dataset | None]:
    """Loads and checks the config, opens the output folder and its logs.

    Args:
        args: of Detectron2's default_argument_parser.
        complete: sets what the config takes from the data, before it is saved. It is given the
            config and the training images.

    Returns:
        The config, and the training images, the number of which is an epoch. With
        `args.eval_only` there are none, and the output folder is a new one.
    """
    args.config_file = str(find_config(args.config_file))
    cfg = load_config(args.config_file, args.opts)
    engine.choose_device(cfg)
    dataset = None
    if args.eval_only:
        if not cfg.train.init_checkpoint:
            raise ValueError("--eval-only: say which weights: train.init_checkpoint=FILE.pth")
        folder = Path(cfg.train.output_dir) / f"eval_{Path(cfg.train.init_checkpoint).stem}"
        cfg.train.output_dir = str(engine.unused_path(folder))
    else:
        engine.check_output_dir(cfg.train.output_dir, args.resume)
        dataset = instantiate(cfg.dataloader.train.dataset)
        cfg.train.epoch_images = len(dataset)
    complete(cfg, dataset)
    comm.synchronize()  # nobody writes before all have looked
    engine.keep_old_config(cfg.train.output_dir)
    default_setup(cfg, args)
    for name in ("hiera_det", "pretrain"):
        setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name=name)
    return cfg, dataset


def save_beside(checkpointer: DetectionCheckpointer, name: str) -> None:
    """Saves a checkpoint that is not the one to resume from: the weights may be broken already."""
    tag = Path(checkpointer.save_dir) / "last_checkpoint"
    last = tag.read_text() if tag.is_file() else None
    checkpointer.save(name)
    if last is None:
        tag.unlink()
    else:
        tag.write_text(last)


def ddp_options(cfg: DictConfig) -> dict[str, Any]:
    return dict(cfg.train.ddp) | ({"device_ids": None} if cfg.train.device == "cpu" else {})


def fit(
    cfg: DictConfig,
    model: nn.Module,
    dataset: Dataset,
    *,
    loss: Callable[[nn.Module, Any], Tensor],
    facts: dict[str, str | int | float],
    load_init: Callable[[str], Any],
    extra_hooks: Sequence[HookBase] = (),
    resume: bool = False,
) -> None:
    """Trains from train.init_checkpoint, or from the last checkpoint of train.output_dir.

    Args:
        cfg: with the five keys of a training config; `train.epoch_images` is right.
        model: on its device.
        dataset: see `build_pretrain_loader`.
        loss: see `AccumulatingTrainer`.
        facts: numbers and strings for the checkpoint; a resumed run has to have the same.
        load_init: takes the path of train.init_checkpoint.
        extra_hooks: run after the checkpoint is saved, before metrics are written.
        resume: continue train.output_dir.

    Raises:
        FloatingPointError: a loss that is not finite; the state is saved.
        ValueError, FileNotFoundError: nothing to resume, weights or a batch that do not fit.
    """
    train, data = cfg.train, cfg.dataloader.train
    start_iter, seed, checkpoint = 0, engine.start_seed(cfg), None
    if resume:
        checkpoint, start_iter, seed = engine.resume_point(train.output_dir)
    elif train.init_checkpoint:
        load_init(train.init_checkpoint)
    cfg.optimizer.params.model = model
    data.dataset, data.seed, data.start_iter = dataset, seed, start_iter
    batch, world_size = data.total_batch_size, comm.get_world_size()
    at_once, num_steps = split_batch(batch, world_size, data.images_per_process)
    trainer = AccumulatingTrainer(
        create_ddp_model(model, **ddp_options(cfg)),
        instantiate(data),
        instantiate(cfg.optimizer),
        loss=loss,
        num_steps=num_steps,
        images_per_iteration=batch,
        precision=train.amp.precision if train.amp.enabled else None,
        clip_grad_norm=train.clip_grad_norm,
    )
    checkpointer = DetectionCheckpointer(
        model,
        train.output_dir,
        trainer=trainer,
        hiera_det=RunFacts(facts | {"total_batch_size": batch, "num_images": len(dataset)}),
    )
    main = comm.is_main_process()
    writers = default_writers(train.output_dir, train.max_iter)[1:] if main else []
    writers = [engine.ProgressPrinter(train.max_iter), *writers]
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            engine.IterationSeed(seed),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **train.checkpointer) if main else None,
            *extra_hooks,
            engine.MemoryStats(train.log_period),
            hooks.PeriodicWriter(writers, train.log_period) if main else None,
        ]
    )
    if resume:
        engine.resume_from(checkpointer, checkpoint, trainer.optimizer)
        logger.info("Resumed %s: continuing with iteration %d", checkpoint, start_iter)
    logger.info(
        "%d iterations = %.1f epochs of %d images; seed %d; %s",
        train.max_iter, train.max_iter * batch / train.epoch_images, train.epoch_images, seed,
        train.device,
    )  # fmt: skip
    logger.info(
        "batch of %d images = %d processes x %d images x %d steps; learning rate %.3g",
        batch, world_size, at_once, num_steps, cfg.optimizer.lr,
    )  # fmt: skip
    try:
        trainer.train(start_iter, train.max_iter)
    except FloatingPointError as error:
        if main:
            save_beside(checkpointer, "model_nonfinite")
        raise FloatingPointError(
            f"{error}. To look at: {train.output_dir}/model_nonfinite.pth. --resume goes on from "
            "the last regular checkpoint; give it a lower optimizer.lr, "
            "train.clip_grad_norm=1 or train.amp.enabled=False"
        ) from error
    if main:
        folder = Path(train.output_dir)
        logger.info("Curves: %s", plot_metrics(folder / "metrics.json", folder / "curves.png"))
