import pytest
import torch

from pretrain.masking import num_visible_units, random_keep_mask


@pytest.mark.parametrize("ratio, count", [(0.5, 24), (0.6, 19), (0.7, 14), (0.75, 12), (0.9, 4)])
def test_every_row_keeps_the_official_number(ratio, count):
    keep_mask = random_keep_mask(64, 49, ratio)
    assert keep_mask.dtype == torch.bool
    assert keep_mask.sum(dim=1).tolist() == [count] * 64


def test_rows_differ_and_each_unit_is_hidden_at_times():
    keep_mask = random_keep_mask(400, 9, 0.5, torch.Generator().manual_seed(0))
    assert len(set(map(tuple, keep_mask.tolist()))) > 50
    share = keep_mask.float().mean(dim=0)  # of 4 in 9, with a deviation of 0.025
    torch.testing.assert_close(share, torch.full((9,), 4 / 9), atol=0.1, rtol=0)


def test_same_generator_gives_the_same_mask():
    masks = [random_keep_mask(4, 49, 0.6, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*masks)


@pytest.mark.parametrize("ratio", [0, 1, -1, 1.5, 0.99])
def test_ratios_that_hide_nothing_or_all_raise(ratio):
    with pytest.raises(ValueError, match=f"mask_ratio={ratio}"):
        num_visible_units(49, ratio)
