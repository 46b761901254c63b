"""Training loop: `fit` with its list of hooks, after the config and folder of a run are ready."""

import inspect
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine import HookBase, create_ddp_model, default_setup, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from hiera_det.config import find_config, load_config, save_config
from hiera_det.data.loaders import split_batch
from hiera_det.report.curves import plot_metrics
from hiera_det.report.progress import ProgressPrinter

from . import resume
from .checkpointer import RunCheckpointer
from .checks import choose_device
from .hooks import (
    EMA,
    AveragedWeights,
    Evaluation,
    IterationSeed,
    MemoryStats,
    MetricsWriter,
    StopOnSignal,
)
from .trainer import NonFiniteError, Stopped, Trainer, model_losses

__all__ = ["autocast", "build_optimizer", "ddp_options", "fit", "load_run_config", "open_run"]

logger = logging.getLogger(__name__)

MAX_NAMES = 16  # of files in a message


# ------------------------------------------------------------------------------------ beginning
def load_run_config(args) -> DictConfig:
    """The config of a run, checked, with the device that this machine has.

    Args:
        args: of `hiera_det.cli.arguments.add_run_arguments`.

    Raises:
        ValueError, FileNotFoundError: the config, an override, or values that do not agree.
    """
    args.config_file = str(find_config(args.config_file))  # Detectron2 writes it to the log
    cfg = load_config(args.config_file, args.opts)
    choose_device(cfg)
    if args.eval_only and not cfg.train.init_checkpoint:
        raise ValueError(
            "nothing to evaluate: say which weights, train.init_checkpoint=FILE.pth or, with "
            "hiera-det eval, --weights FILE.pth"
        )
    return cfg


def open_run(cfg: DictConfig, args) -> None:
    """Opens the output folder with its logs, draws the seed, and writes config.yaml.

    The config is written resolved: it loads anywhere the package is installed. An evaluation gets a
    folder of its own, so that results of another one or of the training stay as they are.

    Raises:
        ValueError: the folder holds another run.
        FileNotFoundError: there is nothing to resume.
    """
    train = cfg.train
    if args.eval_only:
        folder = Path(train.output_dir) / f"eval_{Path(train.init_checkpoint).stem}"
        train.output_dir = str(resume.unused_path(folder))
    else:
        resume.check_output_dir(train.output_dir, args.resume)
    comm.synchronize()  # nobody writes before all have looked
    resume.keep_old_config(train.output_dir)
    train.seed = resume.start_seed(cfg)  # the weights come from the seed that is written down
    logging.raiseExceptions = False  # a full disk is told once, not by every line of the log
    default_setup(cfg, args)
    for name in ("hiera_det", "pretrain"):
        setup_logger(train.output_dir, distributed_rank=comm.get_rank(), name=name)
    if not args.eval_only:
        _scale_learning_rate(cfg)
    if comm.is_main_process():
        save_config(cfg, Path(train.output_dir) / "config.yaml")


def _scale_learning_rate(cfg: DictConfig) -> None:
    """Applies `train.lr_scaling` to `optimizer.lr`, once: the saved config has the result."""
    scaling = OmegaConf.select(cfg, "train.lr_scaling")
    if scaling is None or scaling.rule == "none":
        return
    powers = {"linear": 1.0, "sqrt": 0.5}
    if scaling.rule not in powers:
        raise ValueError(
            f"train.lr_scaling.rule={scaling.rule!r} is none of none, {', '.join(powers)}"
        )
    batch = cfg.dataloader.train.total_batch_size
    factor = (batch / scaling.base_batch_size) ** powers[scaling.rule]
    cfg.optimizer.lr *= factor
    logger.info(
        "optimizer.lr is %.3g: scaled by %.3g, the %s rule from a batch of %d to %d",
        cfg.optimizer.lr, factor, scaling.rule, scaling.base_batch_size, batch,
    )  # fmt: skip
    scaling.rule = "none"


def autocast(cfg: DictConfig, precision: str | None) -> torch.autocast:
    """The autocast context of a precision ("bf16", "fp16", None for none) on `train.device`."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, None: None}[precision]
    return torch.autocast(torch.device(cfg.train.device).type, dtype, enabled=dtype is not None)


def ddp_options(cfg: DictConfig) -> dict[str, Any]:
    """Keyword arguments of `create_ddp_model`.

    Raises:
        ValueError: gradients in bf16 and sent as fp16, whose small values would become 0.
    """
    options = dict(cfg.train.ddp)
    if options.get("fp16_compression") and cfg.train.amp.enabled:
        if cfg.train.amp.precision == "bf16":
            raise ValueError(
                "train.ddp.fp16_compression=True with train.amp.precision=bf16: without a loss "
                "scaler small gradients become 0 when they are sent as fp16. Turn it off"
            )
    if cfg.train.device == "cpu":
        options["device_ids"] = None
    return options


def build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """`cfg.optimizer` for a model; fused on a GPU unless `optimizer.fused` says otherwise."""
    node = cfg.optimizer.copy()  # a model in the config would be saved with it
    node._set_parent(cfg)
    node.params.model = model
    build = locate(node._target_) if isinstance(node._target_, str) else node._target_
    can_fuse = "fused" in inspect.signature(build).parameters
    if can_fuse and "fused" not in node and model_device(model).type == "cuda":
        node.fused = True
    return instantiate(node)


def model_device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


# ------------------------------------------------------------------------------------ the loop
def fit(
    cfg: DictConfig,
    model: nn.Module,
    loader: Callable[..., Iterable],
    *,
    loss: Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor]] = model_losses,
    evaluate: Callable[[nn.Module], Mapping[str, Any]] | None = None,
    facts: Mapping[str, Any],
    described: Mapping[str, Any] | None = None,
    load_init: Callable[[str], Any],
    hooks: Sequence[HookBase] = (),
    resume_run: bool = False,
) -> nn.Module:
    """Trains from `train.init_checkpoint`, or from the last checkpoint of `train.output_dir`.

    Args:
        cfg: with the five keys of a training config.
        model: on its device.
        loader: called with seed, start (images that this process has taken before) and batch_size
            (images of a process at once); an endless iterable of batches. Its method
            names(first, count), if any, tells the files of batches that do not name them.
        loss: see `Trainer`.
        evaluate: see `Evaluation`; called every `train.eval_period` iterations and at the end.
        facts: numbers and strings for the checkpoint; a resumed run has to have the same. The
            number of training images is added to them.
        described: more for the checkpoint, which a resumed run may have otherwise.
        load_init: takes the path of `train.init_checkpoint`.
        hooks: run after the checkpoint is saved, before metrics are written.
        resume_run: continue `train.output_dir`.

    Returns:
        The model to look at: with averaged weights where `train.ema` is on.

    Raises:
        NonFiniteError: a loss or gradient that is not finite, in all processes; nothing is saved.
        Stopped: SIGTERM or Ctrl-C; a checkpoint is saved.
        ValueError, FileNotFoundError: nothing to resume, weights or a batch that do not fit.
    """
    train = cfg.train
    progress = _begin(cfg, load_init, resume_run)
    if progress.seed != train.seed:  # a run keeps its seed, and its config.yaml says which
        logger.info("train.seed is %d, that of the run which goes on", progress.seed)
        train.seed = progress.seed
        if comm.is_main_process():
            save_config(cfg, Path(train.output_dir) / "config.yaml")
    batch, world_size = cfg.dataloader.train.total_batch_size, comm.get_world_size()
    at_once, num_steps = split_batch(batch, world_size, train.get("images_per_process") or batch)
    if train.get("compile"):
        getattr(model, "backbone", model).compile()  # in place: names of parameters stay
    ema = EMA(model, train.ema.decay) if train.get("ema") and train.ema.enabled else None
    batches = loader(
        seed=progress.seed, start=progress.images_seen // world_size, batch_size=at_once
    )
    trainer = Trainer(
        create_ddp_model(model, **ddp_options(cfg)),
        batches,
        build_optimizer(cfg, model),
        loss=loss,
        num_steps=num_steps,
        images_per_iteration=batch,
        precision=train.amp.precision if train.amp.enabled else None,
        clip_grad_norm=train.clip_grad_norm,
    )
    run_facts = resume.RunFacts(
        _num_images(batches) | dict(facts),
        trainer,
        dict(
            images_seen=progress.images_seen,
            iteration=progress.iteration,
            total_batch_size=batch,
            num_processes=world_size,
            max_iter=train.max_iter,
        ),
        described,
    )
    others = {"ema": AveragedWeights(ema)} if ema else {}
    checkpointer = RunCheckpointer(
        model, train.output_dir, trainer=trainer, hiera_det=run_facts, **others
    )
    stop = StopOnSignal()
    shown = ema.model if ema else model
    trainer.register_hooks(
        _hooks(cfg, progress.seed, checkpointer, run_facts, stop, shown, ema, evaluate, hooks)
    )
    if progress.path is not None:
        try:
            resume.restore(progress, model, trainer, run_facts, **others)
        except ValueError:  # which says: with the config of that run
            resume.put_back_config(train.output_dir)
            raise
        logger.info("Resumed %s: continuing with iteration %d", progress.path, progress.iteration)
    _log_start(cfg, progress.seed, at_once, num_steps)
    with stop:
        _train(cfg, trainer, checkpointer, progress)
    if comm.is_main_process():
        folder = Path(train.output_dir)
        if ema:
            RunCheckpointer(shown, folder, hiera_det=run_facts).save("model_ema", tag=False)
        logger.info("Curves: %s", plot_metrics(folder / "metrics.json", folder / "curves.png"))
    return shown


def _begin(cfg: DictConfig, load_init: Callable[[str], Any], resume_run: bool) -> resume.Progress:
    """Where the run begins; the initial weights are loaded if that is at the start."""
    train = cfg.train
    path = resume.last_checkpoint(train.output_dir) if resume_run else None
    if path is not None:
        batch = cfg.dataloader.train.total_batch_size
        return resume.Progress.read(path, batch, comm.get_world_size(), train.max_iter)
    if resume_run:
        logger.warning("--resume: %s has no checkpoint yet; starting anew", train.output_dir)
    if train.init_checkpoint:
        load_init(train.init_checkpoint)
    return resume.Progress.start(train.seed)


def _hooks(
    cfg: DictConfig,
    seed: int,
    checkpointer: RunCheckpointer,
    facts: resume.RunFacts,
    stop: StopOnSignal,
    shown: nn.Module,
    ema: EMA | None,
    evaluate: Callable[[nn.Module], Mapping[str, Any]] | None,
    others: Sequence[HookBase],
) -> list[HookBase | None]:
    """What happens in a run, in this order."""
    train, main = cfg.train, comm.is_main_process()
    periodic = dict(train.checkpointer)
    if periodic["period"] >= train.max_iter:  # or a short run would have none before its end
        periodic["period"] = max(1, train.max_iter // 4)
    best = None
    patience = OmegaConf.select(cfg, "train.early_stop.patience", default=0) or 0
    if train.get("best_checkpoint") and train.eval_period > 0:
        best = RunCheckpointer(shown, train.output_dir, hiera_det=facts)
    evaluation = None
    if evaluate is not None:
        evaluation = Evaluation(
            train.eval_period,
            evaluate,
            shown,
            metrics=Path(train.output_dir) / "metrics.json",
            best=best,
            patience=patience,
            stop=stop,
        )
    return [
        hooks.IterationTimer(),
        IterationSeed(seed),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        ema,
        hooks.PeriodicCheckpointer(checkpointer, **periodic) if main else None,
        stop,
        evaluation,
        *others,
        MemoryStats(train.log_period),
        MetricsWriter(_writers(cfg), train.log_period, Path(train.output_dir)) if main else None,
    ]


def _writers(cfg: DictConfig) -> list[EventWriter]:
    folder = cfg.train.output_dir
    resume.drop_torn_line(Path(folder) / "metrics.json")
    writers: list[EventWriter] = [
        ProgressPrinter(cfg.train.max_iter),
        JSONWriter(os.path.join(folder, "metrics.json")),
        TensorboardXWriter(folder),
    ]
    if cfg.train.get("writers"):
        from hiera_det.report.writers import ExperimentWriter

        writers += [ExperimentWriter(name, cfg) for name in cfg.train.writers]
    return writers


def _log_start(cfg: DictConfig, seed: int, at_once: int, num_steps: int) -> None:
    train, batch = cfg.train, cfg.dataloader.train.total_batch_size
    logger.info(
        "%d iterations x %d images = %.1f epochs of %d images; seed %d; %s",
        train.max_iter, batch, train.max_iter * batch / train.epoch_images, train.epoch_images,
        seed, train.device,
    )  # fmt: skip
    logger.info(
        "batch of %d images = %d processes x %d images x %d steps; learning rate %.3g",
        batch, comm.get_world_size(), at_once, num_steps, cfg.optimizer.lr,
    )  # fmt: skip


def _num_images(loader: Any) -> dict[str, int]:
    """The images that a loader draws from, if it has a dataset of a known size."""
    while hasattr(loader, "dataset"):
        loader = loader.dataset
    try:
        return {"num_images": len(loader)}
    except TypeError:
        return {}


def _train(
    cfg: DictConfig, trainer: Trainer, checkpointer: RunCheckpointer, progress: resume.Progress
) -> None:
    """trainer.train, and what is to be done where it ends early."""
    train = cfg.train
    try:
        trainer.train(progress.iteration, train.max_iter)
    except Stopped:
        if not trainer.step_done:
            trainer.iter -= 1  # that is
        if trainer.iter >= progress.iteration:
            checkpointer.save(f"model_{trainer.iter:07d}", iteration=trainer.iter)
        logger.warning(
            "Stopped after iteration %d of %d; --resume goes on from there",
            trainer.iter + 1, train.max_iter,
        )  # fmt: skip
        raise
    except NonFiniteError as error:
        text = NonFiniteError(
            f"{error}. The weights have not changed, and the last checkpoint of "
            f"{train.output_dir} is from before. Look at the images{_names(trainer)}; --resume "
            "goes on from that checkpoint: give it a lower optimizer.lr, train.clip_grad_norm=1 or "
            "train.amp.enabled=False"
        )
        text.is_mine = error.is_mine
        raise text from error
    trainer.iter = trainer.max_iter - 1  # the last one that was done, as checkpoints say
    if trainer.max_iter < train.max_iter:  # stopped early: the periodic hook waits for the last one
        checkpointer.save("model_final", iteration=trainer.iter)


def _names(trainer: Trainer) -> str:
    """ " of a.jpg, b.jpg": the images of this process in the iteration that failed."""
    names = trainer.batch_names
    if not names and hasattr(trainer.data_loader, "names"):
        count = trainer.images_per_iteration // comm.get_world_size()
        names = trainer.data_loader.names((trainer.iter - trainer.start_iter) * count, count)
    rest = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f" of {', '.join(names[:MAX_NAMES])}{rest}" if names else ""
