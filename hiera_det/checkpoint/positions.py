"""Position tables between kinds and sizes.

Two kinds: "absolute", a table (1, rows * cols, C) over the tokens of stage 1; and "absolute_win"
(arXiv 2311.05613), a background (1, C, r, c) that is interpolated to the input plus a window
(1, C, 8, 8) that is tiled. Hiera's blocks attend in windows of 8x8 tokens from the start, and the
table it learns repeats in each of them. Interpolation to a larger input stretches that repetition
out of step with the windows; `table_errors` measures it.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..modeling.hiera import UNIT_SIZE

__all__ = [
    "absolute_to_window",
    "change_size",
    "fit_positions",
    "resize_absolute",
    "resize_background",
    "synthetic_table",
    "table_errors",
    "table_size",
    "window_to_absolute",
]

Size = tuple[int, int]


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


def window_to_absolute(background: Tensor, window: Tensor, grid: Size) -> Tensor:
    """What the trunk adds at a grid of tokens, as an absolute table: exact for that grid.

    Args:
        background: (1, C, r, c).
        window: (1, C, 8, 8).
        grid: (rows, cols), multiples of 8.

    Returns:
        (1, rows * cols, C).
    """
    return (resize_background(background, grid) + _tile(window, grid)).flatten(2).transpose(1, 2)


def resize_background(background: Tensor, size: Size) -> Tensor:
    """(1, C, r, c) to (1, C, *size), as the trunk does."""
    if tuple(background.shape[2:]) == tuple(size):
        return background
    return F.interpolate(background, size=size, mode="bicubic", align_corners=False)


def resize_absolute(table: Tensor, grid: Size) -> Tensor:
    """An absolute table for another grid, its windows kept in step.

    The part that repeats in every 8x8 window is tiled; only the rest is interpolated.

    Args:
        table: (1, rows * cols, C), square, sides multiples of 8.
        grid: (rows, cols), multiples of 8.

    Returns:
        (1, rows * cols, C); at the size of the table, the table.
    """
    window, rest = _split(table)
    return window_to_absolute(rest, window, grid)


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
        out["pos_embed"] = resize_background(table, size)
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
        return resize_background(maps, (size, size)).flatten(2).transpose(1, 2)
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


# ------------------------------------------------------------------------------------- helpers
def _tile(window: Tensor, grid: Size) -> Tensor:
    if grid[0] % UNIT_SIZE or grid[1] % UNIT_SIZE:
        raise ValueError(
            f"a window of 8x8 tokens does not tile {grid[0]}x{grid[1]} tokens: multiples of 8 "
            "tokens, 32 pixels"
        )
    return window.tile(1, 1, grid[0] // UNIT_SIZE, grid[1] // UNIT_SIZE)


def _split(table: Tensor) -> tuple[Tensor, Tensor]:
    """(1, N, C) to the mean over tiles (1, C, 8, 8) and the rest (1, C, rows, cols)."""
    grid = table_size({"pos_embed": table})
    if grid[0] % UNIT_SIZE:
        raise ValueError(
            f"pos_embed covers {grid[0]}x{grid[1]} tokens, which are not whole windows of 8x8"
        )
    tiles = grid[0] // UNIT_SIZE
    maps = table.transpose(1, 2).unflatten(2, grid)  # (1, N, C) -> (1, C, rows, cols)
    window = maps.unflatten(3, (tiles, 8)).unflatten(2, (tiles, 8)).mean(dim=(2, 4))
    return window, maps - _tile(window, grid)
