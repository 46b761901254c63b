#!/usr/bin/env python
"""Measures and draws what a change of size does to Hiera's position embedding.

Prints the table of docs/position_embeddings.md and writes its figure.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from hiera_det.modeling.positions import (
    absolute_to_window,
    resize_absolute,
    resize_map,
    table_size,
    window_to_absolute,
)
from hiera_det.modeling.units import UNIT_SIZE

METHODS = [  # title, method, cells of the background
    ("plain bicubic", "interpolate", 0),
    ("windows kept", "keep_windows", 0),
    ("absolute_win, 7x7", "absolute_win", 7),
    ("absolute_win, 14x14", "absolute_win", 14),
]
CROP = 32  # tokens on a side of what is drawn: 4x4 attention windows


def change_size(table: Tensor, size: int, method: str, background: int = 7) -> Tensor:
    """A square absolute table at size x size tokens, by each of the ways there are.

    Args:
        table: (1, N, C).
        size: tokens on a side, a multiple of 8.
        method: "interpolate", plain bicubic; "keep_windows", `resize_absolute`; "absolute_win",
            `absolute_to_window` and back.
        background: cells on a side, for "absolute_win".

    Returns:
        (1, size * size, C).
    """
    if method == "interpolate":
        maps = table.transpose(1, 2).unflatten(2, table_size({"pos_embed": table}))
        return resize_map(maps, (size, size)).flatten(2).transpose(1, 2)
    if method == "keep_windows":
        return resize_absolute(table, (size, size))
    if method == "absolute_win":
        parts = absolute_to_window(table, (background, background))
        return window_to_absolute(*parts, (size, size))
    raise ValueError(f'method={method!r}: "interpolate", "keep_windows" or "absolute_win"')


def synthetic_table(seed: int = 0, channels: int = 32) -> tuple[Tensor, Tensor]:
    """A table as Hiera learns it: a random background (1, C, 3, 3) and window (1, C, 8, 8)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, channels, UNIT_SIZE, UNIT_SIZE)
    window = torch.randn(shape, generator=generator, dtype=torch.float64)
    window -= window.mean(dim=(2, 3), keepdim=True)  # a constant would be background
    return torch.randn(1, channels, 3, 3, generator=generator, dtype=torch.float64), window


def table_errors(
    method: str, size: int = 256, background: int = 7, seed: int = 0
) -> tuple[float, float]:
    """What a change of size does to the window and to the background of a 56x56 table.

    The table is `synthetic_table`. The ideal at another size is the same window tiled, which is
    what every attention window saw in pretraining, plus the same background interpolated.

    Args:
        method, size, background: as in `change_size`.

    Returns:
        The relative L2 errors of the window's part and of the background's part; 0 is perfect, 1
        as far off as without it.
    """
    smooth, window = synthetic_table(seed)
    errors = []
    for parts in ((torch.zeros_like(smooth), window), (smooth, torch.zeros_like(window))):
        ideal = window_to_absolute(*parts, (size, size))
        # Every method is linear, so that the parts can be measured one at a time.
        result = change_size(window_to_absolute(*parts, (56, 56)), size, method, background)
        errors.append(float((result - ideal).norm() / ideal.norm()))
    return errors[0], errors[1]


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python benchmarks/positions.py docs/position_embeddings.png",
    )
    parser.add_argument("output", type=Path, metavar="PNG")
    parser.add_argument(
        "--size", type=int, default=256, help="tokens on a side (default: 256, which is 1024 px)"
    )
    return parser


def draw(output: Path, size: int) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

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
