#!/usr/bin/env python
"""Draws the curves of a run (losses, learning rate, AP) as a PNG."""

import argparse
from pathlib import Path

from hiera_det.report.curves import plot_metrics


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""example:
  python tools/plot_metrics.py output/shapes
  python tools/plot_metrics.py output/shapes/metrics.json --output curves.png""",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's output_dir, or metrics.json")
    parser.add_argument(
        "--output", type=Path, metavar="PNG", help="default: metrics.png beside the metrics.json"
    )
    return parser


def main() -> None:
    args = argument_parser().parse_args()
    metrics_file = args.run / "metrics.json" if args.run.is_dir() else args.run
    print(plot_metrics(metrics_file, args.output or metrics_file.with_suffix(".png")))


if __name__ == "__main__":
    main()
