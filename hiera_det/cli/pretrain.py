"""Pretrains a Hiera as a masked autoencoder (MAE) on a folder of images.

Everything of a run is written to train.output_dir: config.yaml, log.txt, metrics.json, TensorBoard
files, checkpoints, curves.png, reconstructions.png. Then `hiera-det convert RUN encoder.pth` makes
the file that detection starts from; train.init_checkpoint takes the run's checkpoints too.
"""

import argparse

from .arguments import add_run_arguments

EXAMPLES = """
examples:
  a small Hiera on generated shapes, on any machine:
    hiera-det pretrain --config-file pretrain/mae_hiera_shapes.py
  the same in a checkout:
    python pretrain/train_mae.py --config-file pretrain/configs/mae_hiera_shapes.py
  your own images, flat or in sub-folders, on one GPU:
    hiera-det pretrain --config-file pretrain/mae_hiera_b_abswin.py \\
        dataloader.train.dataset.root=/data/images dataloader.train.total_batch_size=512 \\
        train.images_per_process=128 train.epochs=400
  8 GPUs; on several machines add torchrun's --nnodes and --rdzv-endpoint:
    torchrun --nproc-per-node 8 -m hiera_det pretrain --config-file ...
  continue a run that was stopped (options stand before key=value):        ... --resume
  continue from official weights:         ... train.init_checkpoint=mae_hiera_base_224
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser, evaluates=False)


def run(args: argparse.Namespace) -> int:
    from hiera_det.engine import launch_run, load_run_config

    return launch_run(main, args, load_run_config(args).train.device)


def main(args: argparse.Namespace) -> None:
    """A run in one of its processes."""
    from hiera_det.engine import load_run_config, open_run
    from pretrain.pretraining import complete_config, run_pretraining

    cfg = load_run_config(args)
    dataset = complete_config(cfg)
    open_run(cfg, args)
    run_pretraining(cfg, dataset, args.resume)
