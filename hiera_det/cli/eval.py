"""Evaluates a detector's weights on the config's test set, in a folder of its own."""

import argparse

from . import train
from .arguments import add_run_arguments

EXAMPLES = """
examples:
  hiera-det eval --config-file output/mask_rcnn_hiera_shapes/config.yaml \\
      --weights output/mask_rcnn_hiera_shapes/model_final.pth
  hiera-det eval --config-file COCO/mask_rcnn_hiera_b.py --weights model_final.pth --num-gpus 8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", metavar="FILE", help="a detector's checkpoint (train.init_checkpoint)"
    )
    add_run_arguments(parser, evaluates=False)


def run(args: argparse.Namespace) -> int:
    args.eval_only, args.dry_run = True, False
    if args.weights:
        args.opts = [*args.opts, f"train.init_checkpoint={args.weights}"]
    return train.run(args)
