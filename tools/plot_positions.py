#!/usr/bin/env python
"""Measures and draws what a change of size does to Hiera's position embedding.

Prints the table of docs/position_embeddings.md and writes its figure.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from hiera_det.checkpoint.positions import (
    change_size,
    synthetic_table,
    table_errors,
    window_to_absolute,
)

METHODS = [  # title, method, cells of the background
    ("plain bicubic", "interpolate", 0),
    ("windows kept", "keep_windows", 0),
    ("absolute_win, 7x7", "absolute_win", 7),
    ("absolute_win, 14x14", "absolute_win", 14),
]
CROP = 32  # tokens on a side of what is drawn: 4x4 attention windows


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python tools/plot_positions.py docs/position_embeddings.png",
    )
    parser.add_argument("output", type=Path, metavar="PNG")
    parser.add_argument(
        "--size", type=int, default=256, help="tokens on a side (default: 256, which is 1024 px)"
    )
    return parser


def draw(output: Path, size: int) -> None:
    parts = synthetic_table()
    table = window_to_absolute(*parts, (56, 56))
    panels = [
        ("56x56, pretraining", table),
        (f"{size}x{size}, ideal", window_to_absolute(*parts, (size, size))),
    ]
    for title, method, cells in METHODS[:3]:
        panels.append((title, change_size(table, size, method, cells)))
    width = 3 * len(panels)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, 3.4), layout="constrained")
    for axis, (title, tokens) in zip(axes, panels, strict=True):
        side = round(tokens.shape[1] ** 0.5)
        axis.imshow(tokens[0, :, 0].reshape(side, side)[:CROP, :CROP], cmap="coolwarm")
        axis.set_title(title, fontsize=10)
        lines = [8 * i - 0.5 for i in range(1, CROP // 8)]
        axis.vlines(lines, -0.5, CROP - 0.5, color="black", linewidth=0.8)
        axis.hlines(lines, -0.5, CROP - 0.5, color="black", linewidth=0.8)
        axis.set_axis_off()
    figure.suptitle("one channel, first 32x32 tokens; lines bound the 8x8 attention windows")
    figure.savefig(output, dpi=100)


def main() -> None:
    args = argument_parser().parse_args()
    print(f"56x56 to {args.size}x{args.size}    window  background")
    for title, method, cells in METHODS:
        window, background = table_errors(method, args.size, cells)
        print(f"{title:20s}  {window:6.3f}  {background:10.3f}")
    draw(args.output, args.size)
    print(args.output)


if __name__ == "__main__":
    main()
