"""Says what is wrong with a COCO-format dataset, before a run.

The exit status is 1 if there are errors.
"""

import argparse

EXAMPLES = """
example:
  hiera-det check-data datasets/mine/train.json datasets/mine/images --num-classes 3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("json", metavar="JSON", help="annotations in COCO's format")
    add("images", metavar="IMAGES", help="the folder that file names start from")
    add("--num-classes", type=int, metavar="N", help="of the model, to compare with the file")
    add("--split", choices=["train", "val"], help="what the file is for (default: either)")
    add("--boxes-only", action="store_true", help="objects without masks are meant to be there")


def run(args: argparse.Namespace) -> int:
    from hiera_det.data.coco_check import check_coco_json

    report = check_coco_json(
        args.json,
        args.images,
        num_classes=args.num_classes,
        need_masks=not args.boxes_only,
        split=args.split,
    )
    print(report)
    return 1 if report.errors else 0
