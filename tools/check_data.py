#!/usr/bin/env python
"""Says what is wrong with a COCO-format dataset, before a run."""

import argparse
import sys

from hiera_det.data.coco_check import check_coco_json


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""example:
  python tools/check_data.py datasets/mine/train.json datasets/mine/images --num-classes 3

The exit status is 1 if there are errors.""",
    )
    parser.add_argument("json", metavar="JSON", help="annotations in COCO's format")
    parser.add_argument("images", metavar="IMAGES", help="the folder that file names start from")
    parser.add_argument(
        "--num-classes", type=int, metavar="N", help="of the model, to compare with the file"
    )
    parser.add_argument(
        "--split", choices=["train", "val"], help="what the file is for (default: either)"
    )
    parser.add_argument(
        "--boxes-only", action="store_true", help="objects without masks are meant to be there"
    )
    return parser


def main() -> int:
    args = argument_parser().parse_args()
    report = check_coco_json(
        args.json,
        args.images,
        num_classes=args.num_classes,
        need_masks=not args.boxes_only,
        split=args.split,
    )
    print(report)
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
