"""Token layout: mask units of 8x8 tokens in Z-order, groups of units, and how far a block attends.

Tokens live on the grid of *mask units* (32x32 px, 8x8 tokens of stage 1). A block attends inside a
group of units: one unit, a window of g x g units, or all of them.

Shape legend, for the trunk too:
    B       images                         C, D    channels, channels of one head
    Uh, Uw  grid of units, U = Uh * Uw     n       tokens in a unit: 64, 16, 4, 1 in stages 1..4
    G, N    groups, tokens in a group      g       side of a group, in units

x is (B, G, N, C) with N = g * g * n. The n tokens of a unit stand in Z-order (`units_order`), so
the four tokens that a 2x2 pooling joins are always neighbours in memory and pooling is a maximum
over a dimension of size 4 whatever the group. Three things follow. Attention inside a unit
(stages 1 and 2, most of the tokens) and over the whole image needs no window partition at all.
Windows that divide the grid cost one permutation where the group size changes (`regroup`), not
two copies in every block. Dropping masked units is indexing one axis.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "PATCH_STRIDE",
    "UNIT_PIXELS",
    "UNIT_SIZE",
    "Extent",
    "block_extents",
    "check_keep_mask",
    "pool_tokens",
    "regroup",
    "units_order",
    "units_to_map",
    "window_partition",
    "window_unpartition",
]

Grid = tuple[int, int]  # (Uh, Uw)

UNIT_SIZE = 8  # tokens of stage 1 on a side of a mask unit
PATCH_STRIDE = 4  # pixels
UNIT_PIXELS = UNIT_SIZE * PATCH_STRIDE  # on a side of a mask unit


# ----------------------------------------------------------------------------- inside a unit
def units_order(x: Tensor, side: int = UNIT_SIZE) -> Tensor:
    """Raster tokens to mask units in Z-order.

    The tokens of a unit are split in halves until one is left; the coarsest bit pair comes first:

        2x2 unit    4x4 unit         in general, with row = r2 r1 r0 and column = c2 c1 c0 in
        0 1         0  1  4  5       binary, the position is r2 c2 r1 c1 r0 c0.
        2 3         2  3  6  7       Four consecutive tokens are one 2x2 pooling window, and
                    8  9 12 13       after pooling the order is again the Z-order of the
                    10 11 14 15      smaller unit.

    Args:
        x: (B, H, W, C), H and W multiples of `side`.
        side: tokens on a side of a unit, a power of 2: 8, 4, 2, 1 in stages 1..4.

    Returns:
        (B, U, side * side, C), units in raster order.
    """
    b, h, w, c = x.shape
    uh, uw = h // side, w // side
    bits = side.bit_length() - 1  # halvings of a side
    halves = [2] * bits
    x = x.reshape(b, uh, *halves, uw, *halves, c)  # (B, Uh, r2, r1, r0, Uw, c2, c1, c0, C)
    pairs = [axis for k in range(bits) for axis in (2 + k, 3 + bits + k)]
    x = x.permute(0, 1, 2 + bits, *pairs, 3 + 2 * bits)  # (B, Uh, Uw, r2, c2, r1, c1, r0, c0, C)
    return x.reshape(b, uh * uw, side**2, c)


def units_to_map(x: Tensor, grid: Grid) -> Tensor:
    """Mask units back to a feature map: the inverse of `units_order`, at any stage.

    Args:
        x: (B, U, n, C) with n in 64, 16, 4, 1, units in raster order, tokens in Z-order.
        grid: (Uh, Uw).

    Returns:
        (B, C, Uh * sqrt(n), Uw * sqrt(n)), in channels-last memory.
    """
    b, _, n, c = x.shape
    uh, uw = grid
    bits = (n.bit_length() - 1) // 2  # halvings of a side
    x = x.reshape(b, uh, uw, *[2] * (2 * bits), c)  # (B, Uh, Uw, r2, c2, r1, c1, r0, c0, C)
    rows, cols = range(3, 3 + 2 * bits, 2), range(4, 4 + 2 * bits, 2)
    x = x.permute(0, 1, *rows, 2, *cols, 3 + 2 * bits)  # (B, Uh, r2, r1, r0, Uw, c2, c1, c0, C)
    x = x.reshape(b, uh * 2**bits, uw * 2**bits, c)
    return x.permute(0, 3, 1, 2)  # (B, C, H, W)


def pool_tokens(x: Tensor) -> Tensor:
    """2x2 max-pooling of tokens in Z-order: (B, G, N, C) to (B, G, N / 4, C)."""
    b, groups, tokens, c = x.shape
    return x.reshape(b, groups, tokens // 4, 4, c).amax(dim=3)


def check_keep_mask(keep_mask: Tensor, batch: int, grid: Grid) -> None:
    """Checks that a mask keeps the same number of units in every row.

    Raises:
        ValueError: no bool mask (B, U), or rows that keep different numbers of units, or none.
    """
    shape = (batch, grid[0] * grid[1])
    if keep_mask.dtype != torch.bool or keep_mask.shape != shape:
        raise ValueError(
            f"keep_mask must be bool of shape {shape} (images, mask units of the "
            f"{grid[0]}x{grid[1]} grid), got {keep_mask.dtype} {tuple(keep_mask.shape)}"
        )
    counts = keep_mask.sum(dim=1)
    if not bool((counts == counts[0]).all()) or int(counts[0]) == 0:
        raise ValueError(
            "keep_mask must keep the same number of units, at least 1, in every row: "
            f"{counts.tolist()}"
        )


# ---------------------------------------------------------------------------- groups of units
def regroup(x: Tensor, grid: Grid, old: int, new: int) -> Tensor:
    """Changes the group from old x old to new x new units: one permutation, or none.

    Args:
        x: (B, G, old * old * n, C).
        grid: (Uh, Uw), multiples of `old` and `new`.

    Returns:
        (B, G', new * new * n, C); groups, and units in a group, in raster order.
    """
    if old == new:
        return x
    b, _, tokens, c = x.shape
    n = tokens // old**2
    uh, uw = grid
    if old > 1:
        x = x.reshape(b, uh // old, uw // old, old, old, n, c)
        x = x.transpose(2, 3)  # (B, Uh/g, g, Uw/g, g, n, C): units in raster order
    if new > 1:
        x = x.reshape(b, uh // new, new, uw // new, new, n, c).transpose(2, 3)
    return x.reshape(b, uh * uw // new**2, new**2 * n, c)


def window_partition(x: Tensor, grid: Grid, size: int) -> Tensor:
    """Windows of size x size units that need not divide the grid; the rest is padded with zeros.

    Args:
        x: (B, U, n, C), units in raster order.

    Returns:
        (B, windows, size * size * n, C).
    """
    b, _, n, c = x.shape
    uh, uw = grid
    padded = _padded(grid, size)
    x = x.reshape(b, uh, uw, n * c)
    x = F.pad(x, (0, 0, 0, padded[1] - uw, 0, padded[0] - uh))  # zeros right and below
    return regroup(x.reshape(b, padded[0] * padded[1], n, c), padded, 1, size)


def window_unpartition(x: Tensor, grid: Grid, size: int) -> Tensor:
    """The inverse of `window_partition`; the padding is dropped."""
    b, _, tokens, c = x.shape
    uh, uw = grid
    padded = _padded(grid, size)
    n = tokens // size**2
    x = regroup(x, padded, size, 1).reshape(b, *padded, n * c)  # (B, Uh', Uw', n * C)
    return x[:, :uh, :uw].reshape(b, uh * uw, n, c)


def _padded(grid: Grid, size: int) -> Grid:
    return math.ceil(grid[0] / size) * size, math.ceil(grid[1] / size) * size


# ------------------------------------------------------------------------ how far a block attends
@dataclass(frozen=True)
class Extent:
    """How far a block attends on one grid: inside the groups of `side` x `side` units it stands in.

    `split` makes of tokens as they stand, (B, G, N, C), groups that attend within themselves;
    `join` brings what attention gives for them, pooled or not, back to how they stood.
    """

    side: int = 1

    def split(self, x: Tensor) -> Tensor:
        return x

    def join(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class WholeImage(Extent):
    """All tokens of an image attend to each other, in whatever groups they stand."""

    groups: int = 1

    def split(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2).unsqueeze(1)  # (B, G, N, C) -> (B, 1, G * N, C)

    def join(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.groups, -1, x.shape[3])  # (B, G, N or N / 4, C)


@dataclass(frozen=True)
class PaddedWindow(Extent):
    """Windows of `window` x `window` units on a grid that they do not divide.

    What is missing is padded with zeros that are attended to like tokens, as SAM 2 does.
    """

    grid: Grid = (1, 1)
    window: int = 1

    def split(self, x: Tensor) -> Tensor:
        return window_partition(x, self.grid, self.window)

    def join(self, x: Tensor) -> Tensor:
        return window_unpartition(x, self.grid, self.window)


def block_extents(
    windows: Sequence[int], grid: Grid, num_visible: int | None = None
) -> list[Extent]:
    """The extent of each block on a grid; tokens are regrouped to its `side` before the block.

    Args:
        windows: per block the side of its attention window in units; 0 is the whole image.
        grid: (Uh, Uw).
        num_visible: units of an image that are there, if some are masked.

    Raises:
        ValueError: windows of several units with masked ones, which they have no place for.
    """
    extents: list[Extent] = []
    units = grid[0] * grid[1] if num_visible is None else num_visible
    side = 1
    for i, window in enumerate(windows):
        if window == 0 or grid == (window, window):
            extents.append(WholeImage(side, units // side**2))
            continue
        if num_visible is not None and window > 1:
            raise ValueError(
                f"keep_mask needs blocks that attend in one mask unit or over the whole image; "
                f"block {i} attends in windows of {window}x{window} units on a grid of {grid}"
            )
        divides = grid[0] % window == 0 and grid[1] % window == 0
        side = window if divides else 1
        extents.append(Extent(side) if divides else PaddedWindow(side, grid, window))
    return extents
