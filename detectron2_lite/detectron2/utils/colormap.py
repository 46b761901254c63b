"""Colours that are easy to tell apart."""

import colorsys

import numpy as np

__all__ = ["colormap", "random_color", "random_colors"]

_NUM_COLORS = 80
_GOLDEN_RATIO = 0.618033988749895


def _palette() -> np.ndarray:
    """(80, 3) RGB in 0..1. Hues advance by the golden ratio, so neighbours always differ."""
    tones = ((0.95, 1.0), (0.6, 1.0), (1.0, 0.7), (0.75, 0.85))  # saturation, value
    return np.array(
        [
            colorsys.hsv_to_rgb(i * _GOLDEN_RATIO % 1.0, *tones[i // 4 % len(tones)])
            for i in range(_NUM_COLORS)
        ],
        dtype=np.float32,
    )


_COLORS = _palette()


def colormap(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """All colours, float32 (80, 3) in 0..``maximum``, in the order BGR unless ``rgb``.

    Args:
        maximum: 255 or 1.
    """
    if maximum not in (255, 1):
        raise ValueError(f"maximum of a colour is 255 or 1, got {maximum}")
    colors = _COLORS * maximum
    return colors if rgb else colors[:, ::-1]


def random_color(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """One colour, (3,), drawn from ``np.random``."""
    return colormap(rgb, maximum)[np.random.randint(_NUM_COLORS)]


def random_colors(N: int, rgb: bool = False, maximum: int = 255) -> list[np.ndarray]:
    """``N`` different colours, each (3,), drawn from ``np.random``; at most 80."""
    if not 0 <= N <= _NUM_COLORS:
        raise ValueError(f"there are {_NUM_COLORS} different colours, got N={N}")
    return list(colormap(rgb, maximum)[np.random.permutation(_NUM_COLORS)[:N]])
