"""Random masks over mask units. One polarity everywhere: `keep_mask`, True where visible."""

import torch
from torch import Tensor

__all__ = ["num_visible_units", "random_keep_mask"]


def num_visible_units(num_units: int, mask_ratio: float) -> int:
    """Units that stay visible: `int(num_units * (1 - mask_ratio))`, as in official Hiera.

    The rounding is down, in floating point: of 49 units 19 stay at 0.6 (61 % are masked), and at
    0.9 it is 4.

    Raises:
        ValueError: no unit would be masked, or none would be seen.
    """
    count = int(num_units * (1 - mask_ratio))
    if not 0 < mask_ratio < 1 or count == 0:
        raise ValueError(
            f"mask_ratio={mask_ratio} of {num_units} mask units of 32x32 px: it must lie between 0 "
            "and 1 and leave at least one unit visible; the paper's value is 0.6"
        )
    return count


def random_keep_mask(
    batch_size: int,
    num_units: int,
    mask_ratio: float,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """A random choice of units for each image, the same number in every row.

    Args:
        batch_size: rows.
        num_units: mask units of an image, 49 at 224 px.
        mask_ratio: share of the units that is hidden.
        generator: source of randomness, on `device`.
        device: of the result.

    Returns:
        keep_mask (batch_size, num_units), bool, True where visible.

    Raises:
        ValueError: see `num_visible_units`.
    """
    count = num_visible_units(num_units, mask_ratio)
    noise = torch.rand(batch_size, num_units, generator=generator, device=device)
    visible = noise.topk(count, dim=1).indices
    return torch.zeros_like(noise, dtype=torch.bool).scatter_(1, visible, True)
