"""Variants: the one table of sizes, and everything that is looked up in it.

Hiera: arXiv 2306.00989, tables 2 and 8. SAM 2's trunks: arXiv 2408.00714, appendix C.1, and the
published configurations; there is no SAM 2 trunk of size B or H.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from .hiera import Hiera

__all__ = [
    "DETECTION",
    "VARIANTS",
    "build_detection_hiera",
    "build_hiera",
    "find_trunk",
    "variant_kwargs",
    "variant_names",
]

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

# What each variant has besides in a detector. The paper leaves windows and global blocks open: they
# are SAM 2's, with the windows of L, which divide an image of 1024 px, for every size. Drop path of
# B, B+ and L is table 15's, of H ViTDet-H's, of T and S and with SAM 2's weights SAM 2's.
_DETECTION_WINDOWS = dict(window_size=(8, 4, 16, 8), pos_embed_size=(7, 7))
DETECTION: dict[str, dict[str, Any]] = {
    name: _DETECTION_WINDOWS | dict(global_attn_blocks=blocks, drop_path_rate=rate)
    for name, blocks, rate in (
        ("hiera_t", (5, 7, 9), 0.1),
        ("hiera_s", (7, 10, 13), 0.1),
        ("hiera_b", (12, 16, 20), 0.2),
        ("hiera_bplus", (12, 16, 20), 0.2),
        ("hiera_l", (23, 33, 43), 0.4),
        ("hiera_h", (23, 33, 43), 0.5),
    )
}
DETECTION |= {
    name: {k: VARIANTS[name][k] for k in ("window_size", "global_attn_blocks", "pos_embed_size")}
    | dict(drop_path_rate=rate)
    for name, rate in (
        ("sam2_hiera_t", 0.1),
        ("sam2_hiera_s", 0.1),
        ("sam2_hiera_bplus", 0.2),
        ("sam2_hiera_l", 0.3),
    )
}


def variant_kwargs(variant: str) -> dict[str, Any]:
    """Keyword arguments of `Hiera` for a named size.

    Raises:
        ValueError: the name is not in the table.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant={variant!r} is none of {', '.join(VARIANTS)}")
    return dict(VARIANTS[variant])


def variant_names(embed_dim: int, depth: int) -> list[str]:
    """The variants with so many channels in stage 1 and so many blocks: Hiera's before SAM 2's."""
    return [
        name
        for name, row in VARIANTS.items()
        if (row["embed_dim"], sum(row["stages"])) == (embed_dim, depth)
    ]


def build_hiera(variant: str, **kwargs: Any) -> Hiera:
    """A trunk of a named size; keyword arguments of `Hiera` override the table.

    Raises:
        ValueError: the name is not in the table.
    """
    return Hiera(**(variant_kwargs(variant) | kwargs))


def build_detection_hiera(
    variant: str,
    *,
    window_size: Sequence[int] | None = None,
    global_attn_blocks: Sequence[int] | None = None,
    pos_embed: str = "absolute_win",
    pos_embed_size: Sequence[int] | None = None,
    drop_path_rate: float | None = None,
    **kwargs: Any,
) -> Hiera:
    """A trunk of a named size for a detector: what is None is the variant's, by `DETECTION`.

    Args:
        variant: a name of `VARIANTS`.
        window_size, global_attn_blocks, drop_path_rate: as of `Hiera`. No global blocks are ().
        pos_embed: as of `Hiera`.
        pos_embed_size: as of `Hiera`; None is 56x56 for "absolute" whatever the variant.
        kwargs: others of `Hiera`.

    Raises:
        ValueError: the name is not in the table, or an impossible combination.
    """
    row = variant_kwargs(variant) | DETECTION[variant]
    given = dict(
        window_size=window_size,
        global_attn_blocks=global_attn_blocks,
        pos_embed_size=pos_embed_size,
        drop_path_rate=drop_path_rate,
    )
    row |= {key: value for key, value in given.items() if value is not None}
    if pos_embed != "absolute_win":  # the variant's size is that of a background
        row["pos_embed_size"] = pos_embed_size
    return Hiera(**(row | kwargs | dict(pos_embed=pos_embed)))


def find_trunk(model: nn.Module) -> tuple[str, Hiera]:
    """The one Hiera in a model, and the prefix of its parameters' names ("" if it is the model).

    Raises:
        ValueError: there is none, or more than one.
    """
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, Hiera)]
    if len(found) != 1:
        raise ValueError(
            f"the model has {len(found)} Hiera trunks, not one: {[n for n, _ in found]}"
        )
    name, trunk = found[0]
    return f"{name}." if name else "", trunk
