"""Draws what a masked autoencoder makes of masked images, as one PNG.

A row per image, four columns: the image, what the model sees of it, its reconstruction, and the
reconstruction put in where the image was hidden. The model predicts pixels normalised in each
patch; they are drawn with the true patch's mean and contrast, which flatters it.

With an encoder alone there is nothing to draw: the decoder is needed (a checkpoint of the run, or
an official mae_hiera_*.pth).
"""

import argparse
from pathlib import Path

from .arguments import add_offline, add_overrides

EXAMPLES = """
examples:
  the newest checkpoint of a run, on its own images:
    hiera-det reconstruct --run output/mae_hiera_shapes --output reconstructions.png
  official weights on your images, with more hidden:
    hiera-det reconstruct --config-file pretrain/mae_hiera_b.py \\
        --weights mae_hiera_base_224 --output reconstructions.png \\
        dataloader.train.dataset.root=/data/images model.mask_ratio=0.75
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="DIR", help="output folder: its config and checkpoint")
    source.add_argument("--config-file", metavar="FILE", help="a config; needs --weights")
    add = parser.add_argument
    add("--weights", metavar="FILE", help="an autoencoder, or its name; default: --run's newest")
    add("--output", metavar="PNG", required=True, help="must not exist")
    add("--num-images", type=int, default=8, metavar="N", help="rows (default 8)")
    add("--seed", type=int, default=0, help="chooses images and masks (default 0)")
    add_offline(parser)
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from hiera_det.checkpoint import newest_checkpoint
    from hiera_det.config import load_config
    from pretrain.pictures import reconstruct

    if args.run:
        config = str(Path(args.run) / "config.yaml")
        weights = args.weights or str(newest_checkpoint(args.run))
    elif args.weights:
        config, weights = args.config_file, args.weights
    else:
        raise ValueError("--config-file needs --weights: the file of an autoencoder")
    cfg = load_config(config, args.opts)
    print(reconstruct(cfg, weights, args.output, args.num_images, args.seed))
