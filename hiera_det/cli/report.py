"""Writes a page about a run: report.html, one file that opens in any browser.

It shows what was run, curves, AP by class and size, precision and recall, confusion, where AP is
lost, validation images with ground truth and predictions, the data, and links to all files. Every
run of a detector writes it at its end.
"""

import argparse
from pathlib import Path

EXAMPLES = """
examples:
  hiera-det report output/mask_rcnn_hiera_shapes
  hiera-det report output/mask_rcnn_hiera_shapes --output shapes.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run's output_dir, finished or not")
    add("--output", type=Path, metavar="FILE", help="default: report.html in RUN")


def run(args: argparse.Namespace) -> None:
    from hiera_det.report.page import write_report

    print(write_report(args.run, args.output, show_progress=True))
