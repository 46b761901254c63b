"""The one table of sizes: configs, MAE pretraining and weight conversion read it.

Hiera: arXiv 2306.00989, tables 2 and 8. SAM 2's trunks: arXiv 2408.00714, appendix C.1, and the
published configurations; there is no SAM 2 trunk of size B or H.
"""

from typing import Any

from .hiera import Hiera

__all__ = ["VARIANTS", "build_hiera"]

VARIANTS: dict[str, dict[str, Any]] = {
    "hiera_t": dict(embed_dim=96, num_heads=1, stages=(1, 2, 7, 2)),
    "hiera_s": dict(embed_dim=96, num_heads=1, stages=(1, 2, 11, 2)),
    "hiera_b": dict(embed_dim=96, num_heads=1, stages=(2, 3, 16, 3)),
    "hiera_bplus": dict(embed_dim=112, num_heads=2, stages=(2, 3, 16, 3)),
    "hiera_l": dict(embed_dim=144, num_heads=2, stages=(2, 6, 36, 4)),
    "hiera_h": dict(embed_dim=256, num_heads=4, stages=(2, 6, 36, 4)),
}

_WINDOWS = dict(window_size=(8, 4, 14, 7), pos_embed="absolute_win", pos_embed_size=(7, 7))
VARIANTS |= {
    "sam2_hiera_t": VARIANTS["hiera_t"] | _WINDOWS | dict(global_attn_blocks=(5, 7, 9)),
    "sam2_hiera_s": VARIANTS["hiera_s"] | _WINDOWS | dict(global_attn_blocks=(7, 10, 13)),
    "sam2_hiera_bplus": VARIANTS["hiera_bplus"]
    | _WINDOWS
    | dict(global_attn_blocks=(12, 16, 20), pos_embed_size=(14, 14)),
    "sam2_hiera_l": VARIANTS["hiera_l"]
    | _WINDOWS
    | dict(global_attn_blocks=(23, 33, 43), window_size=(8, 4, 16, 8)),
}


def build_hiera(variant: str, **kwargs: Any) -> Hiera:
    """A trunk of a named size; keyword arguments of `Hiera` override the table.

    Raises:
        ValueError: the name is not in the table.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant={variant!r} is none of {', '.join(VARIANTS)}")
    return Hiera(**(VARIANTS[variant] | kwargs))
