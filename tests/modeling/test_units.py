"""Token layout: Z-order against its definition, groups against plain indexing, what attends."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from hiera_det.modeling.units import (
    Extent,
    PaddedWindow,
    WholeImage,
    block_extents,
    check_keep_mask,
    pool_tokens,
    regroup,
    units_order,
    units_to_map,
    window_partition,
    window_unpartition,
)


def z_position(row: int, col: int) -> int:
    """The bits of row and column interleaved, row first."""
    return sum((row >> k & 1) << 2 * k + 1 | (col >> k & 1) << 2 * k for k in range(4))


def numbered(grid: tuple[int, int], side: int) -> torch.Tensor:
    """(1, H, W, 1): tokens numbered in raster order."""
    h, w = grid[0] * side, grid[1] * side
    return torch.arange(h * w).reshape(1, h, w, 1)


# ----------------------------------------------------------------------------- inside a unit
@pytest.mark.parametrize("side", [1, 2, 4, 8])
@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_units_order_is_z_order_and_inverts(grid, side):
    raster = numbered(grid, side)
    units = units_order(raster, side)
    assert units.shape == (1, grid[0] * grid[1], side**2, 1)
    for row in range(grid[0] * side):
        for col in range(grid[1] * side):
            unit = row // side * grid[1] + col // side
            position = z_position(row % side, col % side)
            assert units[0, unit, position] == raster[0, row, col]
    assert_close(units_to_map(units, grid)[0, 0], raster[0, :, :, 0])


def test_pooling_is_the_maximum_of_2x2_neighbours_at_every_stage():
    x = torch.randn(2, 16, 24, 3)
    maps, units = x.permute(0, 3, 1, 2), units_order(x)
    for _ in range(3):
        maps, units = F.max_pool2d(maps, 2), pool_tokens(units)
        assert_close(units_to_map(units, (2, 3)), maps, rtol=0, atol=0)


# ---------------------------------------------------------------------------- groups of units
def test_regroup_there_and_back():
    x = torch.randn(2, 6 * 4, 4, 3)
    grouped = regroup(x, (6, 4), 1, 2)
    assert grouped.shape == (2, 6, 16, 3)
    assert_close(grouped[0, 0], x[0, [0, 1, 4, 5]].flatten(0, 1))
    assert_close(grouped[1, 3], x[1, [10, 11, 14, 15]].flatten(0, 1))
    assert_close(regroup(grouped, (6, 4), 2, 1), x)


def test_regroup_from_one_window_to_another():
    x = torch.randn(1, 12 * 6, 4, 3)
    direct = regroup(regroup(x, (12, 6), 1, 2), (12, 6), 2, 3)
    assert_close(direct, regroup(x, (12, 6), 1, 3), rtol=0, atol=0)


@pytest.mark.parametrize(
    "grid, size, windows",
    [((3, 5), 2, (2, 3)), ((4, 4), 3, (2, 2)), ((4, 3), 2, (2, 2)), ((3, 4), 2, (2, 2))],
)
def test_windows_are_padded_with_zeros_right_and_below(grid, size, windows):
    uh, uw = grid
    x = 1 + torch.rand(2, uh * uw, 4, 3)
    got = window_partition(x, grid, size)
    assert got.shape == (2, windows[0] * windows[1], size**2 * 4, 3)
    padded = torch.zeros(2, windows[0] * size, windows[1] * size, 4, 3)
    padded[:, :uh, :uw] = x.unflatten(1, grid)
    for i in range(windows[0]):
        for j in range(windows[1]):
            rows, cols = slice(i * size, (i + 1) * size), slice(j * size, (j + 1) * size)
            expected = padded[:, rows, cols].flatten(1, 3)
            assert_close(got[:, i * windows[1] + j], expected, rtol=0, atol=0)
    assert_close(window_unpartition(got, grid, size), x, rtol=0, atol=0)
    pooled = window_unpartition(pool_tokens(got), grid, size)
    assert_close(pooled, pool_tokens(x), rtol=0, atol=0)


# ------------------------------------------------------------------------ how far a block attends
def test_extents_of_a_grid():
    assert block_extents([1, 2, 0, 2, 4, 3], (4, 4)) == [
        Extent(1),
        Extent(2),
        WholeImage(2, groups=4),  # in the groups in which the tokens stand
        Extent(2),
        WholeImage(2, groups=4),  # a window as large as the grid
        PaddedWindow(1, (4, 4), 3),
    ]
    assert block_extents([2, 0], (4, 3)) == [PaddedWindow(1, (4, 3), 2), WholeImage(1, groups=12)]
    assert block_extents([1, 0], (7, 7), 19) == [Extent(1), WholeImage(1, groups=19)]


def test_masked_units_have_no_windows():
    with pytest.raises(ValueError, match="block 1 attends in windows of 3x3 units on .*7, 7"):
        block_extents([1, 3], (7, 7), 19)
    assert block_extents([1, 7], (7, 7), 19)[1] == WholeImage(1, groups=19)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("window", [1, 2, 3, 4, 0])
def test_tokens_meet_those_of_their_window_alone(window, pooled):
    """Numbers of units through split, a maximum over what attends, and join."""
    grid = (4, 4)
    (extent,) = block_extents([window], grid)
    units = torch.arange(16.0).reshape(1, 16, 1, 1).expand(1, 16, 4, 1)
    x = extent.split(regroup(units, grid, 1, extent.side))
    assert x.ndim == 4
    largest = x.amax(dim=2, keepdim=True).expand_as(x)
    y = extent.join(pool_tokens(largest) if pooled else largest)
    y = regroup(y, grid, extent.side, 1)
    assert y.shape == (1, 16, 1 if pooled else 4, 1)
    size = window or 4
    for unit in range(16):
        row, col = (min(k // size * size + size, 4) - 1 for k in divmod(unit, 4))
        assert (y[0, unit] == row * 4 + col).all(), unit


@pytest.mark.parametrize(
    "keep_mask, text",
    [
        (torch.ones(2, 48, dtype=torch.bool), "shape \\(2, 49\\)"),
        (torch.ones(2, 49), "float32"),
        (torch.zeros(2, 49, dtype=torch.bool), "at least 1"),
        (torch.arange(98).reshape(2, 49) < 60, "same number"),
    ],
)
def test_bad_keep_masks_are_refused(keep_mask, text):
    with pytest.raises(ValueError, match=text):
        check_keep_mask(keep_mask, 2, (7, 7))
