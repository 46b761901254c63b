"""Fine-tunes a pretrained Hiera on a folder of images with a sub-folder per class.

The classes are those of the training folder. Top-1 and top-5 on the test folder are logged every
train.eval_epochs and at the end. With --eval-only, train.init_checkpoint is evaluated: a checkpoint
of this command, or official classification weights (hiera_*_224.pth).
"""

import argparse

from .arguments import add_run_arguments

EXAMPLES = """
examples:
  from an encoder of `hiera-det convert`, or an autoencoder:
    hiera-det finetune --config-file pretrain/finetune_hiera_b.py --num-gpus 8 \\
        train.init_checkpoint=encoder.pth dataloader.train.dataset.root=/data/imagenet/train \\
        dataloader.test.dataset.root=/data/imagenet/val
  the same in a checkout: python pretrain/finetune.py \\
        --config-file pretrain/configs/finetune_hiera_b.py ...
  accuracy of official weights:
    hiera-det finetune --config-file pretrain/finetune_hiera_b.py --eval-only \\
        train.init_checkpoint=hiera_base_224 dataloader.test.dataset.root=/data/imagenet/val
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from hiera_det.engine import launch_run, load_run_config

    return launch_run(main, args, load_run_config(args).train.device)


def main(args: argparse.Namespace) -> None:
    """A run in one of its processes."""
    from hiera_det.engine import load_run_config, open_run
    from pretrain.classification import complete_config, run_evaluation, run_finetuning

    cfg = load_run_config(args)
    dataset = complete_config(cfg, with_train=not args.eval_only)
    open_run(cfg, args)
    if dataset is None:  # --eval-only
        run_evaluation(cfg)
    else:
        run_finetuning(cfg, dataset, args.resume)
