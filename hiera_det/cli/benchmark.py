"""Speed and memory beside other implementations, measured interleaved in one run.

    trunk   forward and training step of the trunk beside hiera-transformer's and timm's
    mae     a pretraining step beside hiera-transformer's MAE: time and memory
    loader  images per second of one core beside torchvision's pipeline

The scripts stand in benchmarks/ beside their dated results.
"""

import argparse
import runpy
import sys
from pathlib import Path

EXAMPLES = """
examples:
  hiera-det benchmark trunk --repeats 9
  hiera-det benchmark mae --batch-size 16
  hiera-det benchmark loader /data/images --num-images 500
  hiera-det benchmark trunk -- --help       what it takes
"""
SCRIPTS = ("trunk", "mae", "loader")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=SCRIPTS)
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of that benchmark")


def run(args: argparse.Namespace) -> None:
    package = Path(__file__).resolve().parents[1]
    inside = package / "benchmarks"  # of an installed package; in a checkout they stand beside it
    folder = inside if inside.is_dir() else package.parent / "benchmarks"
    script = str(folder / f"{args.what}.py")
    options = args.options[1:] if args.options[:1] == ["--"] else args.options
    old, sys.argv = sys.argv, [script, *options]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        sys.argv = old
