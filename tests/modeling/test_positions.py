"""Position tables: what is exact is exact, and the trunk agrees."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.positions import (
    absolute_to_window,
    fit_positions,
    resize_absolute,
    table_size,
    window_to_absolute,
)
from hiera_det.modeling.units import units_to_map

SMALL = dict(embed_dim=8, num_heads=1, stages=(1, 1, 1, 1))
EXACT = dict(rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def table_errors():
    """Of benchmarks/positions.py, which makes the figures of docs/position_embeddings.md."""
    path = Path(__file__).parents[2] / "benchmarks" / "positions.py"
    spec = importlib.util.spec_from_file_location("benchmark_positions", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.table_errors


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trunk_state(kind: str, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    trunk = Hiera(**SMALL, pos_embed=kind, pos_embed_size=size).double()
    return {k: randn(*v.shape, seed=i) for i, (k, v) in enumerate(trunk.state_dict().items())}


def positions(kind: str, size: tuple[int, int], state: dict, grid: tuple[int, int]):
    trunk = Hiera(**SMALL, pos_embed=kind, pos_embed_size=size).double()
    trunk.load_state_dict(state)
    return trunk.position_units(grid)


@pytest.mark.parametrize("grid", [(7, 7), (2, 3)])
def test_the_trunk_adds_background_and_tiled_window(grid):
    """arXiv 2311.05613, in PyTorch's words, over the raster of tokens."""
    state = trunk_state("absolute_win", (7, 7))
    size = (8 * grid[0], 8 * grid[1])
    options = dict(mode="bicubic", align_corners=False)
    expected = F.interpolate(state["pos_embed"], size=size, **options)
    expected = expected + state["pos_embed_window"].tile(1, 1, *grid)
    units = positions("absolute_win", (7, 7), state, grid)
    assert_close(units_to_map(units, grid), expected, **EXACT)


@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (4, 4)])
def test_the_trunk_interpolates_an_absolute_table_as_a_whole(grid):
    state = trunk_state("absolute", (16, 24))
    maps = state["pos_embed"].transpose(1, 2).unflatten(2, (16, 24))
    size = (8 * grid[0], 8 * grid[1])
    expected = F.interpolate(maps, size=size, mode="bicubic", align_corners=False)
    units = positions("absolute", (16, 24), state, grid)
    assert_close(units_to_map(units, grid), expected, **EXACT)


@pytest.mark.parametrize("grid", [(7, 7), (2, 3)])
def test_writing_out_a_window_is_what_the_trunk_computes(grid):
    state = trunk_state("absolute_win", (7, 7))
    tokens = (8 * grid[0], 8 * grid[1])
    written, note = fit_positions(state, "absolute", tokens)
    assert note == f"window and 7x7 background written out as {tokens[0]}x{tokens[1]}"
    expected = positions("absolute_win", (7, 7), state, grid)
    assert_close(positions("absolute", tokens, written, grid), expected, **EXACT)


def test_a_table_of_a_window_and_tile_constants_splits_exactly():
    window = randn(1, 4, 8, 8)
    constants = randn(1, 4, 7, 7, seed=1)
    maps = window.tile(1, 1, 7, 7) + constants.repeat_interleave(8, 2).repeat_interleave(8, 3)
    background, found = absolute_to_window(maps.flatten(2).transpose(1, 2))
    shift = constants.mean(dim=(2, 3), keepdim=True)  # either part may carry the overall mean
    assert_close(found, window + shift, **EXACT)
    assert_close(background, constants - shift, **EXACT)


def test_the_split_keeps_the_mean_of_a_table():
    table = randn(1, 56 * 56, 4)
    background, window = absolute_to_window(table, (14, 14))
    assert background.shape == (1, 4, 14, 14)
    mean = background.mean(dim=(2, 3)) + window.mean(dim=(2, 3))
    assert_close(mean, table.mean(dim=1), **EXACT)


def test_resizing_an_absolute_table_keeps_its_windows():
    window = randn(1, 4, 8, 8)
    zero = torch.zeros(1, 4, 7, 7, dtype=torch.float64)
    small, large = (window_to_absolute(zero, window, (s, s)) for s in (56, 256))
    assert_close(resize_absolute(small, (256, 256)), large, **EXACT)
    table = randn(1, 56 * 56, 4, seed=2)
    assert_close(resize_absolute(table, (56, 56)), table, **EXACT)


@pytest.mark.parametrize("old", [("absolute", (56, 56)), ("absolute_win", (7, 7))])
@pytest.mark.parametrize("new", [("absolute", (16, 24)), ("absolute_win", (14, 14))])
def test_any_table_fits_any_trunk(old, new):
    state, note = fit_positions(trunk_state(*old), *new)
    assert note
    Hiera(**SMALL, pos_embed=new[0], pos_embed_size=new[1]).load_state_dict(state, strict=True)


def test_what_fits_is_left_alone():
    state = trunk_state("absolute_win", (7, 7))
    fitted, note = fit_positions(state, "absolute_win", (7, 7))
    assert note == ""
    assert all(fitted[key] is value for key, value in state.items())


def test_half_precision_tables_convert():
    state = {k: v.half() for k, v in trunk_state("absolute", (56, 56)).items()}
    fitted, _ = fit_positions(state, "absolute_win", (7, 7))
    assert fitted["pos_embed"].dtype == torch.float32


def test_bad_tables_are_errors():
    with pytest.raises(ValueError, match="pos_embed is missing"):
        table_size({})
    with pytest.raises(ValueError, match="no square table"):
        table_size({"pos_embed": torch.zeros(1, 50, 4)})
    with pytest.raises(ValueError, match="no square table"):
        table_size({"pos_embed": torch.zeros(1, 4, 7, 7)})  # a background without its window
    with pytest.raises(ValueError, match="60x60 tokens, which are not whole windows"):
        absolute_to_window(torch.zeros(1, 3600, 4))
    with pytest.raises(ValueError, match="does not tile 20x16"):
        resize_absolute(torch.zeros(1, 64, 4), (20, 16))


@pytest.mark.parametrize(
    ("method", "cells", "expected"),
    [  # the figures of docs/position_embeddings.md
        ("interpolate", 0, (1.321, 0.004)),
        ("keep_windows", 0, (0.0, 0.082)),
        ("absolute_win", 7, (0.0, 0.071)),
        ("absolute_win", 14, (0.0, 0.070)),
    ],
)
def test_plain_interpolation_loses_the_windows_and_conversion_keeps_them(
    table_errors, method, cells, expected
):
    assert_close(table_errors(method, 256, cells), expected, rtol=0, atol=6e-4)


def test_nothing_happens_to_a_table_at_its_own_size(table_errors):
    for method in ("interpolate", "keep_windows"):
        assert_close(table_errors(method, 56), (0.0, 0.0), **EXACT)
    with pytest.raises(ValueError, match="method='nearest'"):
        table_errors("nearest")
