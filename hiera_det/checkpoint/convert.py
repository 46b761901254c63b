"""State dicts of any public Hiera to the official names, which are this project's.

Pure functions; nothing is guessed from suffixes: a key is in its source's table (`sources`), in
its list of parts to leave out, or an error.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..modeling.positions import table_size
from ..modeling.variants import VARIANTS, build_hiera, variant_names
from .sources import FOREIGN, SOURCES, Source

__all__ = ["Converted", "check_trunk", "convert_state", "find_source", "listed", "trunk_size"]

SOURCE_NAMES = (
    "a Hiera: official or MAE, SAM 2, timm (hiera_*, sam2_hiera_*), Hugging Face (Hiera, SAM 2), "
    "birder (hiera_*, hieradet_*, mae_hiera_*) or of this project"
)


@dataclass(frozen=True)
class Converted:
    """A trunk under the official names, and the account of how it came about."""

    state: dict[str, Tensor]
    source: Source
    variant: str | None  # of VARIANTS; None for a size that has no name
    pos_embed: str  # "absolute" or "absolute_win"
    mapped: dict[str, tuple[str, int]]  # row of the source's table: official name, tensors
    left_out: dict[str, tuple[str, list[str]]] = field(default_factory=dict)  # group: reason, keys

    @property
    def size(self) -> str:
        """The variant, or the two numbers that say the size."""
        return self.variant or "embed_dim {}, {} blocks".format(*trunk_size(self.state))


def convert_state(
    state: Mapping[str, Tensor], *, variant: str | None = None, ignore: Sequence[str] = ()
) -> Converted:
    """Recognises the source of a state dict and renames its trunk.

    Args:
        state: a whole state dict of any source in `sources`.
        variant: name of the size, from metadata or the user, where the shapes leave a choice
            (SAM 2's windows or not).
        ignore: fnmatch patterns of keys that may be unknown.

    Returns:
        The trunk. Tensors are those of `state`, except LayerScale, folded in the layer before it,
        and a background that its source interpolates otherwise, written out at its own size.

    Raises:
        ValueError: not a Hiera (says what it looks like); a key that the source should not have;
            `variant` is another size.
    """
    source = find_source(state)
    depths = _stage_depths(source, state)
    out: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    left_out: dict[str, tuple[str, list[str]]] = {}
    unknown = []
    for key, tensor in state.items():
        row = _find_row(source, key)
        if row is not None:
            template, match = row
            counts[template] = counts.get(template, 0) + 1
            out[_official_name(source.table[template], match, depths)] = tensor
            continue
        # All that lies under a detector's trunk is in the table, and all else is another part.
        parts = () if source.detector and key.startswith(source.prefix) else source.left_out
        for part in parts:
            if any(fnmatchcase(key, pattern) for pattern in part.patterns):
                left_out.setdefault(part.group, (part.reason, []))[1].append(key)
                break
        else:
            if any(fnmatchcase(key, pattern) for pattern in ignore):
                left_out.setdefault("unknown", ("allowed by name", []))[1].append(key)
            else:
                unknown.append(key)
    if unknown:
        raise ValueError(_unknown_keys(unknown, source, out))
    if not any(re.fullmatch(r"blocks\.\d+\.proj\.weight", key) for key in out):
        raise ValueError(
            f"a file of {source.name} without blocks.*.proj: where its stages change, the skip "
            "connection has no linear layer (timm's hiera_small_abswin_256). No Hiera trunk but "
            "timm's computes that"
        )
    _fold_layer_scale(out)
    if source.antialias and "pos_embed_window" in out:
        out["pos_embed"] = _write_out_background(out["pos_embed"])
    return Converted(
        state=out,
        source=source,
        variant=_variant(out, source, variant),
        pos_embed="absolute_win" if "pos_embed_window" in out else "absolute",
        mapped={row: (source.table[row], counts[row]) for row in source.table if row in counts},
        left_out=left_out,
    )


def find_source(state: Mapping[str, Tensor]) -> Source:
    """The first of SOURCES whose marks are all in the state dict.

    Raises:
        ValueError: none is; says what the state dict looks like instead.
    """
    for name, pattern in FOREIGN:
        for key in state:
            if re.search(pattern, key):
                raise ValueError(f"this is {name} (it has {key!r}); needed is {SOURCE_NAMES}")
    for source in SOURCES:
        if all(mark in state for mark in source.marks):
            return source
    raise ValueError(
        f"no Hiera that is known here: {len(state)} tensors, {listed(state, 4)}; "
        f"needed is {SOURCE_NAMES}"
    )


def check_trunk(converted: Converted) -> None:
    """The state fills a trunk of the variant: every tensor, with its shape, and no other.

    Raises:
        ValueError: lists what does not fit; or the size has no name.
    """
    if converted.variant is None:
        known = ", ".join(
            f"{name} ({v['embed_dim']}, {sum(v['stages'])})"
            for name, v in VARIANTS.items()
            if not name.startswith("sam2_")
        )
        raise ValueError(f"{converted.size}: known (embed_dim, blocks) are {known}")
    state = converted.state
    with torch.device("meta"):
        trunk = build_hiera(
            converted.variant, pos_embed=converted.pos_embed, pos_embed_size=table_size(state)
        )
    expected = trunk.state_dict()
    problems = [f"{k} {tuple(v.shape)} is missing" for k, v in expected.items() if k not in state]
    problems += [f"{key} is in no {converted.variant}" for key in state if key not in expected]
    problems += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        names = listed(problems, 8, "; ")
        raise ValueError(f"{len(problems)} tensors do not fit {converted.variant}: {names}")


def trunk_size(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Channels of the stem and number of blocks, of a state under the official names."""
    blocks = {int(key.split(".")[1]) for key in state if key.startswith("blocks.")}
    return state["patch_embed.proj.weight"].shape[0], max(blocks, default=-1) + 1


def listed(names: Iterable[str], most: int = 8, separator: str = ", ") -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f"{separator}and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


# ------------------------------------------------------------------------------------ key tables
@cache
def _regex(template: str) -> re.Pattern:
    pattern = re.escape(template).replace(r"\{p\}", "(?P<p>weight|bias)")
    return re.compile(re.sub(r"\\{([isl])\\}", r"(?P<\1>\\d+)", pattern))


def _find_row(source: Source, key: str) -> tuple[str, re.Match] | None:
    if not key.startswith(source.prefix):
        return None
    for template in source.table:
        match = _regex(template).fullmatch(key[len(source.prefix) :])
        if match:
            return template, match
    return None


def _official_name(target: str, match: re.Match, depths: list[int]) -> str:
    values = match.groupdict()
    if "s" in values:  # blocks counted within a stage: add the blocks of the stages before
        values["i"] = sum(depths[: int(values["s"])]) + int(values["l"])
    return target.format(**values)


def _stage_depths(source: Source, state: Mapping[str, Tensor]) -> list[int]:
    """Blocks per stage, where the source counts blocks within a stage."""
    depths: dict[int, int] = {}
    for key in state:
        row = _find_row(source, key)
        if row and "s" in row[1].groupdict():
            stage, layer = int(row[1]["s"]), int(row[1]["l"])
            depths[stage] = max(depths.get(stage, 0), layer + 1)
    return [depths.get(stage, 0) for stage in range(max(depths, default=-1) + 1)]


def _unknown_keys(unknown: list[str], source: Source, found: Mapping[str, Tensor]) -> str:
    known = {name for row in source.table for name in _names(source.prefix + row, found)}
    lines = list(unknown)
    for i, key in enumerate(unknown[:8]):
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        lines[i] = f"{key} (like {near[0]}?)" if near else key
    return f"{len(unknown)} keys that a file of {source.name} has not: {listed(lines, 8)}"


def _names(row: str, found: Mapping[str, Tensor]) -> list[str]:
    blocks = range(trunk_size(found)[1]) if "{i}" in row or "{l}" in row else [0]
    return [
        row.format(i=i, s=s, l=i, p=p)
        for i in blocks
        for s in (range(4) if "{s}" in row else [0])
        for p in (("weight", "bias") if "{p}" in row else [""])
    ]


# ---------------------------------------------------------------------------------- LayerScale
def _fold_layer_scale(state: dict[str, Tensor]) -> None:
    """gamma * (W x + b) = (gamma W) x + gamma b, in place."""
    for key in [key for key in state if key.endswith(".gamma")]:
        gamma = state.pop(key)
        weight, bias = key.replace(".gamma", ".weight"), key.replace(".gamma", ".bias")
        if weight not in state or bias not in state:
            raise ValueError(f"a LayerScale has no layer to fold into: {weight}, {bias} missing")
        state[weight] = state[weight] * gamma[:, None]
        state[bias] = state[bias] * gamma


# ---------------------------------------------------------------------------------- background
def _write_out_background(background: Tensor) -> Tensor:
    """(1, C, r, c) to (1, C, 4 r, 4 c): what birder adds at the size of its training.

    antialias=True is another cubic kernel (a = -0.5, here and in SAM 2 -0.75) also where nothing
    is made smaller, so from the small table features would only be close.
    """
    dtype = torch.promote_types(background.dtype, torch.float32)  # half has no bicubic
    return F.interpolate(background.to(dtype), scale_factor=4, mode="bicubic", antialias=True)


# ---------------------------------------------------------------------------------- recognition
def _variant(state: Mapping[str, Tensor], source: Source, given: str | None) -> str | None:
    size = trunk_size(state)
    names = variant_names(*size)
    if given is None:
        return next((n for n in names if n.startswith("sam2_") == source.sam2), None)
    if given not in names:
        what = ", ".join(names) or "a size without a name"
        raise ValueError(
            f"variant={given!r} does not fit: embed_dim {size[0]} and {size[1]} blocks are {what}"
        )
    return given
