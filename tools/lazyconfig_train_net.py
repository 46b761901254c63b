#!/usr/bin/env python
"""Trains and evaluates a detector from a LazyConfig.

The wiring of Detectron2's script of the same name, with checks before the first iteration, exact
resume, the CPU where there is no GPU, and pictures at the end. Everything of a run is written to
train.output_dir: config.yaml, log.txt, metrics.json, TensorBoard files, checkpoints, curves.png,
predictions.png, inference/.
"""

import logging
from pathlib import Path

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.engine import (
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

import hiera_det.data  # noqa: F401  registers shapes_train and shapes_val
from hiera_det import engine
from hiera_det.checkpoint import load_full, load_init_checkpoint
from hiera_det.config import find_config, load_config
from hiera_det.report.dry_run import dry_run

logger = logging.getLogger("hiera_det")

EXAMPLES = """
Examples:
  a small Hiera on generated shapes, on any machine:
    python tools/lazyconfig_train_net.py --config-file configs/shapes/mask_rcnn_hiera_shapes.py
  COCO on 8 GPUs, from MAE weights:
    python tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_hiera_b.py \\
        --num-gpus 8 train.init_checkpoint=mae_hiera_base_224.pth
  the same under torchrun:
    torchrun --nproc-per-node 8 tools/lazyconfig_train_net.py --config-file ...
  what it would do, without doing it:                  ... --dry-run
  continue a run that was stopped:                     ... --resume
  evaluate a checkpoint:           ... --eval-only train.init_checkpoint=output/model_final.pth
  change values:                   ... optimizer.lr=1e-5 dataloader.train.total_batch_size=16
"""


def do_test(cfg, model) -> dict:
    """Evaluates on cfg.dataloader.test; every process has to call it. Results on rank 0."""
    results = inference_on_dataset(
        model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    )
    if comm.is_main_process():
        print_csv_format(results)
    return results


def do_train(cfg, resume: bool) -> None:
    """Trains from train.init_checkpoint, or from the last checkpoint of train.output_dir."""
    model = instantiate(cfg.model).to(cfg.train.device)
    start_iter, seed, checkpoint = 0, engine.start_seed(cfg), None
    if resume:
        checkpoint, start_iter, seed = engine.resume_point(cfg.train.output_dir)
    elif cfg.train.init_checkpoint:
        load_init_checkpoint(
            model,
            cfg.train.init_checkpoint,
            allow_missing=cfg.train.allow_missing,
            allow_unexpected=cfg.train.allow_unexpected,
        )
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    ddp = dict(cfg.train.ddp) | ({"device_ids": None} if cfg.train.device == "cpu" else {})
    trainer = engine.Trainer(
        create_ddp_model(model, **ddp),
        engine.build_train_loader(cfg, seed, start_iter),
        optimizer,
        precision=cfg.train.amp.precision if cfg.train.amp.enabled else None,
        clip_grad_norm=cfg.train.clip_grad_norm,
    )
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    main, train = comm.is_main_process(), cfg.train
    writers = default_writers(train.output_dir, train.max_iter)[1:] if main else []
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            engine.IterationSeed(seed),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **train.checkpointer) if main else None,
            hooks.EvalHook(train.eval_period, lambda: do_test(cfg, trainer.model)),
            engine.MemoryStats(train.log_period),
            hooks.PeriodicWriter(
                [engine.ProgressPrinter(train.max_iter), *writers], train.log_period
            )
            if main
            else None,
        ]
    )
    if resume:
        engine.resume_from(checkpointer, checkpoint, optimizer)
        logger.info("Resumed %s: continuing with iteration %d", checkpoint, start_iter)
    images = train.max_iter * cfg.dataloader.train.total_batch_size
    logger.info(
        "%d iterations x %d images = %.1f epochs of %d images; seed %d; %s",
        train.max_iter,
        cfg.dataloader.train.total_batch_size,
        images / train.epoch_images,
        train.epoch_images,
        seed,
        train.device,
    )
    trainer.train(start_iter, train.max_iter)
    engine.write_pictures(cfg, model)


def do_eval(cfg) -> None:
    """Evaluates train.init_checkpoint, which has to hold every tensor of the model."""
    model = instantiate(cfg.model).to(cfg.train.device)
    load_full(model, cfg.train.init_checkpoint)
    ddp = dict(cfg.train.ddp) | ({"device_ids": None} if cfg.train.device == "cpu" else {})
    do_test(cfg, create_ddp_model(model, **ddp))
    engine.write_pictures(cfg, model)


def main(args) -> None:
    args.config_file = str(find_config(args.config_file))
    cfg = load_config(args.config_file, args.opts)
    engine.choose_device(cfg)
    engine.check_config(cfg)
    if args.dry_run:
        if comm.is_main_process():
            print(dry_run(cfg))
        return
    if args.eval_only:
        if not cfg.train.init_checkpoint:
            raise ValueError("--eval-only: say which weights: train.init_checkpoint=FILE.pth")
        # results of another evaluation or of the training stay as they are
        folder = Path(cfg.train.output_dir) / f"eval_{Path(cfg.train.init_checkpoint).stem}"
        cfg.train.output_dir = str(engine.unused_path(folder))
    else:
        engine.check_output_dir(cfg.train.output_dir, args.resume)
    comm.synchronize()  # nobody writes before all have looked
    engine.keep_old_config(cfg.train.output_dir)
    default_setup(cfg, args)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="hiera_det")
    if comm.is_main_process():
        engine.check_data(cfg, with_train=not args.eval_only)
    comm.synchronize()
    if args.eval_only:
        do_eval(cfg)
    else:
        do_train(cfg, args.resume)


def invoke_main() -> None:
    parser = default_argument_parser(epilog=EXAMPLES)
    parser.description = __doc__
    parser.add_argument(
        "--dry-run", action="store_true", help="build everything, describe it, and stop"
    )
    engine.launch_anyhow(main, parser.parse_args())


if __name__ == "__main__":
    invoke_main()
