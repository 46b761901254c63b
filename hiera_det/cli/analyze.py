"""Parameters and multiply-adds of a config, or the model zoo's table of all COCO configs.

FLOPs are multiply-adds, as papers count them: trunk, FPN and RPN head on one square image of
dataloader.image_size, box head on 1000 boxes, mask head on 100.
"""

import argparse
from pathlib import Path

from .arguments import add_overrides

EXAMPLES = """
examples:
  hiera-det analyze --config-file COCO/mask_rcnn_hiera_b.py
  hiera-det analyze --config-file COCO/mask_rcnn_hiera_l.py dataloader.image_size=1536
  hiera-det analyze --table MODEL_ZOO.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config-file", metavar="FILE", help="describe this config")
    what.add_argument(
        "--table",
        nargs="?",
        const="",
        metavar="FILE",
        help="make the table of all COCO configs and put it into FILE, or print it",
    )
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from hiera_det.report.zoo import describe, replace_table, zoo_table

    if args.config_file:
        print(describe(args.config_file, args.opts))
    elif args.opts:
        raise ValueError(
            f"--table takes no overrides, such as {args.opts[0]}: it is about the "
            "configs as they are"
        )
    elif args.table:
        replace_table(Path(args.table))
    else:
        print(zoo_table(), end="")
