"""Trains and evaluates a detector from a LazyConfig.

Everything of a run is written to train.output_dir: config.yaml, log.txt, metrics.json, TensorBoard
files, checkpoints, curves.png, predictions.png, report.html, inference/. The data are checked
before the first iteration; where there is no GPU the CPU is used.
"""

import argparse
import logging

from .arguments import add_run_arguments

logger = logging.getLogger(__name__)

AUTO = "custom/auto.py"  # the config of --data

EXAMPLES = """
examples:
  a small Hiera on generated shapes, on any machine:
    hiera-det train --config-file shapes/mask_rcnn_hiera_shapes.py
  the same in a checkout:
    python tools/lazyconfig_train_net.py --config-file configs/shapes/mask_rcnn_hiera_shapes.py
  your own data, with a recipe that is made for them; --dry-run says what it sets, and why:
    hiera-det train --data train.json images val.json --dry-run
  COCO on 8 GPUs, from MAE weights:
    hiera-det train --config-file COCO/mask_rcnn_hiera_b.py --num-gpus 8 \\
        train.init_checkpoint=mae_hiera_base_224
  the same under torchrun:
    torchrun --nproc-per-node 8 -m hiera_det train --config-file ...
  what it would do, without doing it:                  ... --dry-run
  continue a run that was stopped:                     ... --resume
  evaluate a checkpoint:           ... --eval-only train.init_checkpoint=output/model_final.pth
  change values:                   ... optimizer.lr=1e-5 dataloader.train.total_batch_size=16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser, has_data=True)
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help="train.json IMAGES [val.json [IMAGES]]: own data in COCO's format, trained with "
        "custom/auto.py unless --config-file says otherwise; without val.json a fifth of the "
        "images is kept for validation. Other formats: hiera-det convert-data",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="build everything, describe it, and stop"
    )


def run(args: argparse.Namespace) -> int:
    from hiera_det.engine import check_config, check_is_detector, launch_run, load_run_config

    take_data(args)
    cfg = load_run_config(args)  # once here, so that a mistake is reported once
    check_is_detector(cfg)
    warnings = check_config(cfg)
    if args.dry_run:
        from hiera_det.report.dry_run import dry_run

        print(dry_run(cfg, warnings))
        return 0
    return launch_run(main, args, cfg.train.device)


def take_data(args: argparse.Namespace) -> None:
    """Puts what `--data` names into `args.opts`, and its config into `args.config_file`.

    Raises:
        ValueError: there is neither `--data` nor `--config-file`; or see `data_overrides`.
    """
    if getattr(args, "data", None) is None:
        if args.config_file is None:
            raise ValueError("say what: --config-file FILE, or --data train.json IMAGES")
        return
    from hiera_det.data.own_data import data_overrides, part_overrides

    paths, opts = part_overrides(args.data)
    opts += args.opts
    args.opts = data_overrides(paths, opts, args.dry_run) + opts
    args.config_file = args.config_file or AUTO


def main(args: argparse.Namespace) -> None:
    """A run in one of its processes."""
    from hiera_det.engine import check_config, load_run_config, open_run
    from hiera_det.engine.detection import run_evaluation, run_training

    cfg = load_run_config(args)
    open_run(cfg, args)
    check_config(cfg)  # again, for the log
    for reason in cfg.get("recipe", {}).get("reasons", ()):
        logger.info("Recipe: %s", reason)
    if args.eval_only:
        run_evaluation(cfg)
    else:
        run_training(cfg, args.resume)
