"""Conversion of a file: any public Hiera, or a run of this project, to a trunk's file."""

import re
from dataclasses import replace
from pathlib import Path

from ..modeling.positions import fit_positions, table_size
from ..modeling.units import PATCH_STRIDE
from .convert import check_trunk, convert_state
from .files import newest_checkpoint, read_checkpoint, write_checkpoint

__all__ = ["convert_file"]

# What a run's checkpoint says of its detector, of which the trunk alone is left.
OF_A_DETECTOR = ("category_ids", "class_colors", "class_names", "config", "num_classes")


def convert_file(
    source: str,
    target: str,
    *,
    pos_embed: str | None = None,
    pixels: int | None = None,
    variant: str | None = None,
) -> str:
    """Writes the trunk in a file under the official names.

    Args:
        source: a checkpoint of any source, or the output folder of a run, of which the newest
            checkpoint is taken.
        target: .pth or .safetensors; must not exist.
        pos_embed: kind of position tables to write; as they are by default.
        pixels: input size that an absolute table is made for, a multiple of 32; as it is by
            default, or 224 from absolute_win.
        variant: name of the size, where shapes leave a choice.

    Returns:
        What became of each tensor, a line per row of the source's table.

    Raises:
        FileNotFoundError, FileExistsError: no such source; there is such a target.
        ValueError: a tensor is left over or does not fit. Nothing is written.
    """
    path = str(newest_checkpoint(source)) if Path(source).is_dir() else source
    file = read_checkpoint(path)
    try:
        converted = convert_state(file.state, variant=variant or file.meta.get("variant"))
        size = table_size(converted.state)
        kind, new_size = _wanted_tables(converted.pos_embed, size, pos_embed, pixels)
        state, note = fit_positions(converted.state, kind, new_size)
        if converted.variant is not None:  # a size of the user's own has no table to check against
            check_trunk(converted)
            check_trunk(replace(converted, state=state, pos_embed=kind))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; nothing was written") from error
    origin = file.meta.get("source", converted.source.name)
    meta = {"source": origin, "pos_embed": kind}
    meta |= {"variant": converted.variant} if converted.variant else {}
    kept = {key: value for key, value in file.meta.items() if key not in OF_A_DETECTOR}
    write_checkpoint(target, state, {**kept, **meta})
    rows = [
        f"  {count:4d}  {converted.source.prefix}{_starred(row)} -> {_starred(name)}"
        for row, (name, count) in converted.mapped.items()
    ]
    rows += [f"        {note}"] if note else []
    rows += [
        f"  {len(keys):4d}  {group} left out: {reason}"
        for group, (reason, keys) in converted.left_out.items()
    ]
    left_out = sum(len(keys) for _, keys in converted.left_out.values())
    tables = f"pos_embed {converted.pos_embed} {size[0]}x{size[1]}"
    return "\n".join(
        [
            f"{path}: {converted.size}, {origin}, {tables}",
            *rows,
            f"{target}: {len(file.state) - left_out} converted, {left_out} left out",
        ]
    )


def _wanted_tables(
    kind: str, size: tuple[int, int], new_kind: str | None, pixels: int | None
) -> tuple[str, tuple[int, int]]:
    """Kind and (rows, cols) of the tables to write, given those of the file."""
    new_kind = new_kind or kind
    if pixels is not None:
        if new_kind != "absolute":
            raise ValueError(f"--to {pixels} with {new_kind} positions, which fit any size")
        if pixels <= 0 or pixels % 32:
            raise ValueError(f"--to {pixels}: a multiple of 32 pixels")
        return new_kind, (pixels // PATCH_STRIDE, pixels // PATCH_STRIDE)
    if new_kind == kind:
        return kind, size
    return new_kind, (7, 7) if new_kind == "absolute_win" else (56, 56)


def _starred(template: str) -> str:
    return re.sub(r"\{\w\}", "*", template)
