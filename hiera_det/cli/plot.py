"""Draws the curves of a run (losses, learning rate, AP) as a PNG."""

import argparse
from pathlib import Path

EXAMPLES = """
examples:
  hiera-det plot output/mask_rcnn_hiera_shapes
  hiera-det plot output/mask_rcnn_hiera_shapes/metrics.json --output curves.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run's output_dir, or metrics.json")
    add("--output", type=Path, metavar="PNG", help="default: metrics.png beside the metrics.json")


def run(args: argparse.Namespace) -> None:
    from hiera_det.report.curves import plot_metrics

    metrics_file = args.run / "metrics.json" if args.run.is_dir() else args.run
    print(plot_metrics(metrics_file, args.output or metrics_file.with_suffix(".png")))
