"""Turns a dataset of another format into COCO JSON, which all else here reads.

COCO JSON itself, YOLO folders, Pascal VOC, folders of one mask image an instance, and folders of
label maps. Images stay where they are; no file is overwritten.
"""

import argparse

EXAMPLES = """
examples:
  a folder with images/a.png and masks/a/*.png, a fifth of it for validation:
    hiera-det convert-data nuclei nuclei.json --class-name nucleus --split 0.2
  all images of a patient on one side (P01_003.png, P01_004.png, ...):
    hiera-det convert-data scans scans.json --split 0.2 --group '^(P[0-9]+)_'
  a YOLO folder, whose own split is kept:
    hiera-det convert-data yolo/data.yaml pots.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("input", metavar="IN", help="a file or a folder")
    add("output", metavar="OUT.json", help="with a split: OUT_train.json and OUT_val.json")
    add(
        "--format",
        choices=["coco", "yolo", "voc", "masks", "label-maps"],
        help="of IN (default: found out)",
    )
    add("--images", metavar="DIR", help="the image folder of a COCO JSON (default: looked for)")
    add(
        "--class-name",
        default="object",
        metavar="NAME",
        help="of what masks and label maps show (default: object)",
    )
    add("--split", type=float, metavar="SHARE", help="of the images for validation, as 0.2")
    add("--seed", type=int, default=0, metavar="N", help="of the split (default: 0)")
    add(
        "--group",
        metavar="REGEX",
        help="keep images together whose file names agree in it; or: folder",
    )


def run(args: argparse.Namespace) -> None:
    from pathlib import Path

    from hiera_det.data.convert import convert_data

    print(
        convert_data(
            Path(args.input),
            Path(args.output),
            format=args.format,
            images=None if args.images is None else Path(args.images),
            class_name=args.class_name,
            share=args.split,
            seed=args.seed,
            group=args.group,
        )
    )
