"""Draws what a model sees of its training data: images as they are beside augmented ones.

Boxes and masks are those that the training mapper of the config gives.
"""

import argparse

from .arguments import add_overrides

EXAMPLES = """
examples:
  hiera-det visualize-data --data train.json images --output seen.png
  hiera-det visualize-data --config-file shapes/mask_rcnn_hiera_shapes.py --output seen.png \\
      --num-images 6 --draws 2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="of a detector (default with --data: custom/auto.py)")
    add("--data", nargs="+", metavar="PATH", help="as of hiera-det train")
    add("--output", required=True, metavar="FILE.png", help="the picture; not overwritten")
    add("--num-images", type=int, default=4, metavar="N", help="rows (default: 4)")
    add("--draws", type=int, default=3, metavar="N", help="augmented ones of each (default: 3)")
    add("--seed", type=int, default=0, metavar="N", help="of choice and augmentation (default: 0)")
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from hiera_det.config import load_config
    from hiera_det.report.augmented import draw_augmented

    from .train import take_data

    args.dry_run = True
    take_data(args)
    cfg = load_config(args.config_file, args.opts)
    path = draw_augmented(
        cfg, args.output, num_images=args.num_images, num_draws=args.draws, seed=args.seed
    )
    print(f"{path}: {args.num_images} images, {args.draws} draws of each")
