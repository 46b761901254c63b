"""Says what is wrong with a COCO-format dataset, before a run; or repairs it.

The exit status is 1 if there are errors.
"""

import argparse

EXAMPLES = """
examples:
  hiera-det check-data datasets/mine/train.json datasets/mine/images --num-classes 3
  what can be repaired is, what cannot is left out, and each is told:
    hiera-det check-data train.json images --fix train_fixed.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("json", metavar="JSON", help="annotations in COCO's format")
    add("images", metavar="IMAGES", help="the folder that file names start from")
    add("--num-classes", type=int, metavar="N", help="of the model, to compare with the file")
    add("--split", choices=["train", "val"], help="what the file is for (default: either)")
    add("--boxes-only", action="store_true", help="objects without masks are meant to be there")
    add("--fix", metavar="OUT.json", help="write a repaired copy, which has no errors")


def run(args: argparse.Namespace) -> int:
    from hiera_det.data.coco_check import check_coco_json

    if args.fix is not None:
        from hiera_det.data.coco_fix import fix_coco_json

        print(fix_coco_json(args.json, args.images, args.fix, need_masks=not args.boxes_only))
        return 0
    report = check_coco_json(
        args.json,
        args.images,
        num_classes=args.num_classes,
        need_masks=not args.boxes_only,
        split=args.split,
    )
    print(report)
    return 1 if report.errors else 0
