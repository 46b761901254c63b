"""Position tables: what the trunk adds at any grid, and tables between kinds and sizes.

Two kinds: "absolute", a table (1, rows * cols, C) over the tokens of stage 1; and "absolute_win"
(arXiv 2311.05613), a background (1, C, r, c) that is interpolated to the input plus a window
(1, C, 8, 8) that is tiled. Hiera's blocks attend in windows of 8x8 tokens from the start, and the
table it learns repeats in each of them. Interpolation to a larger input stretches that repetition
out of step with the windows; benchmarks/positions.py measures it.

The parameters themselves, `pos_embed` and `pos_embed_window`, belong to the trunk.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .units import UNIT_SIZE, Grid, units_order, units_to_map

__all__ = [
    "POS_EMBEDS",
    "absolute_to_window",
    "absolute_units",
    "absolute_win_units",
    "fit_positions",
    "resize_absolute",
    "resize_map",
    "table_size",
    "window_to_absolute",
]

Size = tuple[int, int]  # (rows, columns), in tokens or in cells of a background

# kind: (rows, columns) of its table or background where nothing else is said
POS_EMBEDS: dict[str, Size] = {"absolute": (56, 56), "absolute_win": (7, 7)}


# ----------------------------------------------------------------------- what the trunk adds
def resize_map(x: Tensor, size: Size) -> Tensor:
    """(1, C, r, c) to (1, C, *size): bicubic, between pixel centres."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bicubic", align_corners=False)


def absolute_units(table: Tensor, size: Size, grid: Grid, side: int = UNIT_SIZE) -> Tensor:
    """An absolute table at a grid of units; the whole of it is interpolated if sizes differ.

    Args:
        table: (1, rows * cols, C).
        size: (rows, cols).
        grid: (Uh, Uw).
        side: tokens on a side of a unit.

    Returns:
        (1, U, side * side, C), in unit order.
    """
    maps = table.reshape(1, *size, -1).permute(0, 3, 1, 2)  # (1, N, C) -> (1, C, rows, cols)
    maps = resize_map(maps, (grid[0] * side, grid[1] * side))
    return units_order(maps.permute(0, 2, 3, 1), side)  # (1, C, H, W) -> (1, H, W, C) -> units


def absolute_win_units(background: Tensor, window: Tensor, grid: Grid) -> Tensor:
    """A background, interpolated to a grid of units, plus the window in every unit.

    Args:
        background: (1, C, r, c).
        window: (1, C, 8, 8).
        grid: (Uh, Uw).

    Returns:
        (1, U, 64, C), in unit order.
    """
    maps = resize_map(background, (grid[0] * UNIT_SIZE, grid[1] * UNIT_SIZE))
    units = units_order(maps.permute(0, 2, 3, 1))  # (1, C, H, W) -> (1, H, W, C) -> (1, U, 64, C)
    return units + units_order(window.permute(0, 2, 3, 1))  # (1, 1, 64, C)


# --------------------------------------------------------------------- between kinds and sizes
def absolute_to_window(table: Tensor, background: Size = (7, 7)) -> tuple[Tensor, Tensor]:
    """An approximation of an absolute table by a background and a window.

    The window is the mean over the tiles of 8x8 tokens; what remains is pooled to the background.
    Exact if the table is a window tiled plus a constant for each background cell, up to how the
    background is interpolated.

    Args:
        table: (1, rows * cols, C), square, sides multiples of 8.
        background: (r, c) to pool to.

    Returns:
        Background (1, C, r, c) and window (1, C, 8, 8).
    """
    window, rest = _split(table)
    return F.adaptive_avg_pool2d(rest, background), window


def window_to_absolute(background: Tensor, window: Tensor, size: Size) -> Tensor:
    """What the trunk adds at a grid of tokens, as an absolute table: exact for that grid.

    Args:
        background: (1, C, r, c).
        window: (1, C, 8, 8).
        size: (rows, cols) in tokens, multiples of 8.

    Returns:
        (1, rows * cols, C).
    """
    if size[0] % UNIT_SIZE or size[1] % UNIT_SIZE:
        raise ValueError(
            f"a window of 8x8 tokens does not tile {size[0]}x{size[1]} tokens: multiples of 8 "
            "tokens, 32 pixels"
        )
    grid = (size[0] // UNIT_SIZE, size[1] // UNIT_SIZE)
    maps = units_to_map(absolute_win_units(background, window, grid), grid)  # (1, C, rows, cols)
    return maps.flatten(2).transpose(1, 2)


def resize_absolute(table: Tensor, size: Size) -> Tensor:
    """An absolute table for another grid of tokens, its windows kept in step.

    The part that repeats in every 8x8 window is tiled; only the rest is interpolated.

    Args:
        table: (1, rows * cols, C), square, sides multiples of 8.
        size: (rows, cols), multiples of 8.

    Returns:
        (1, rows * cols, C); at the size of the table, the table.
    """
    window, rest = _split(table)
    return window_to_absolute(rest, window, size)


def _split(table: Tensor) -> tuple[Tensor, Tensor]:
    """(1, N, C) to the mean over tiles (1, C, 8, 8) and the rest (1, C, rows, cols)."""
    rows, cols = table_size({"pos_embed": table})
    if rows % UNIT_SIZE:
        raise ValueError(
            f"pos_embed covers {rows}x{cols} tokens, which are not whole windows of 8x8"
        )
    tiles = rows // UNIT_SIZE
    maps = table.transpose(1, 2).unflatten(2, (rows, cols))  # (1, N, C) -> (1, C, rows, cols)
    window = maps.unflatten(3, (tiles, 8)).unflatten(2, (tiles, 8)).mean(dim=(2, 4))
    return window, maps - window.tile(1, 1, tiles, tiles)


# ------------------------------------------------------------------------------ of a state dict
def table_size(state: Mapping[str, Tensor]) -> Size:
    """(rows, cols) of the table or background in a trunk's state dict.

    Raises:
        ValueError: it is missing, or of a shape that is neither.
    """
    if "pos_embed" not in state:
        raise ValueError("pos_embed is missing")
    table = state["pos_embed"]
    if "pos_embed_window" in state and table.ndim == 4:
        return table.shape[2], table.shape[3]
    side = math.isqrt(table.shape[1]) if table.ndim == 3 else 0
    if "pos_embed_window" in state or side**2 != table.shape[1 if table.ndim > 1 else 0]:
        raise ValueError(
            f"pos_embed of shape {tuple(table.shape)} is no square table (1, N, C), nor, with "
            "pos_embed_window, a background (1, C, r, c)"
        )
    return side, side


def fit_positions(
    state: Mapping[str, Tensor], kind: str, size: Size
) -> tuple[dict[str, Tensor], str]:
    """The state of a trunk with its position tables in the form that another trunk has.

    Args:
        state: of a trunk, under official names.
        kind: "absolute" or "absolute_win".
        size: (rows, cols) of the table or background.

    Returns:
        The state, and in words what was done: "" if nothing.

    Raises:
        ValueError: tables of impossible shapes, or sides that are no multiples of 8.
    """
    old_size, size = table_size(state), (int(size[0]), int(size[1]))
    old_kind = "absolute_win" if "pos_embed_window" in state else "absolute"
    out = dict(state)
    if (old_kind, old_size) == (kind, size):
        return out, ""
    dtype = torch.promote_types(state["pos_embed"].dtype, torch.float32)  # half has no bicubic
    table = state["pos_embed"].to(dtype)
    old, new = "{}x{}".format(*old_size), "{}x{}".format(*size)
    if old_kind == kind == "absolute_win":
        out["pos_embed"] = resize_map(table, size)
        return out, f"background {old} resized to {new}"
    if old_kind == kind:
        out["pos_embed"] = resize_absolute(table, size)
        return out, f"pos_embed {old} resized to {new}, windows kept"
    if kind == "absolute_win":
        out["pos_embed"], out["pos_embed_window"] = absolute_to_window(table, size)
        return out, f"pos_embed {old} approximated by an 8x8 window and a {new} background"
    window = out.pop("pos_embed_window").to(dtype)
    out["pos_embed"] = window_to_absolute(table, window, size)
    return out, f"window and {old} background written out as {new}"
