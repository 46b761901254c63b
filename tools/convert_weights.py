#!/usr/bin/env python
"""Converts the weights of any public Hiera to this project's file: a trunk, official names."""

import argparse
import re
import sys
from dataclasses import replace

from hiera_det.checkpoint import check_trunk, convert_state, read_checkpoint, write_checkpoint
from hiera_det.modeling import VARIANTS
from hiera_det.modeling.positions import POS_EMBEDS, fit_positions, table_size
from hiera_det.modeling.units import PATCH_STRIDE


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""
Reads official Hiera and MAE-Hiera, SAM 2 and 2.1, timm, Hugging Face, and checkpoints of this
project, of which it takes the trunk. train.init_checkpoint takes all of these as they are; convert
to see what is in a file, to change its position tables, or to hand it on.

examples:
  python tools/convert_weights.py mae_hiera_base_224.pth hiera_b.safetensors --pos absolute_win
  python tools/convert_weights.py sam2.1_hiera_large.pt sam2_hiera_l.pth
  python tools/convert_weights.py hiera_tiny_224.pth hiera_t_1024.pth --to 1024

The exit status is 1, and nothing is written, if a single tensor is left over or does not fit.""",
    )
    parser.add_argument(
        "input", metavar="IN", help=".pth .pt .pyth .bin .safetensors or http(s)://"
    )
    parser.add_argument("output", metavar="OUT", help=".pth or .safetensors; must not exist")
    parser.add_argument(
        "--pos",
        choices=POS_EMBEDS,
        help="kind of position tables to write (default: as they are); absolute_win from absolute "
        "is an approximation",
    )
    parser.add_argument(
        "--to",
        type=int,
        metavar="PIXELS",
        help="input size that an absolute table is made for, a multiple of 32 (absolute_win fits "
        "any size as it is); default: as it is, or 224 from absolute_win",
    )
    parser.add_argument(
        "--variant",
        choices=list(VARIANTS),
        help="name of the size, where shapes leave a choice: sam2_hiera_* says that the weights "
        "belong to SAM 2's windows and global blocks, hiera_* that any windows may be used",
    )
    return parser


def convert(args: argparse.Namespace) -> None:
    file = read_checkpoint(args.input)
    try:
        converted = convert_state(file.state, variant=args.variant or file.meta.get("variant"))
        check_trunk(converted)
        size = table_size(converted.state)
        kind, new_size = wanted_tables(args, converted.pos_embed, size)
        state, note = fit_positions(converted.state, kind, new_size)
        check_trunk(replace(converted, state=state, pos_embed=kind))
    except ValueError as error:
        raise ValueError(f"{args.input}: {error}") from error

    source = file.meta.get("source", converted.source.name)
    print(
        f"{args.input}: {converted.variant}, {source}, "
        f"pos_embed {converted.pos_embed} {size[0]}x{size[1]}"
    )
    for row, (name, count) in converted.mapped.items():
        print(f"  {count:4d}  {converted.source.prefix}{starred(row)} -> {starred(name)}")
    if note:
        print(f"        {note}")
    for group, (reason, keys) in converted.left_out.items():
        print(f"  {len(keys):4d}  {group} left out: {reason}")
    meta = {"variant": converted.variant, "source": source, "pos_embed": kind}
    write_checkpoint(args.output, state, meta)
    left_out = sum(len(keys) for _, keys in converted.left_out.values())
    print(f"{args.output}: {len(file.state) - left_out} converted, {left_out} left out")


def wanted_tables(
    args: argparse.Namespace, kind: str, size: tuple[int, int]
) -> tuple[str, tuple[int, int]]:
    """Kind and (rows, cols) of the tables to write, given those of the file."""
    new_kind = args.pos or kind
    if args.to is not None:
        if new_kind != "absolute":
            raise ValueError(f"--to {args.to} with {new_kind} positions, which fit any size")
        if args.to <= 0 or args.to % 32:
            raise ValueError(f"--to {args.to}: a multiple of 32 pixels")
        return new_kind, (args.to // PATCH_STRIDE, args.to // PATCH_STRIDE)
    if new_kind == kind:
        return kind, size
    return new_kind, (7, 7) if new_kind == "absolute_win" else (56, 56)


def starred(template: str) -> str:
    return re.sub(r"\{\w\}", "*", template)


def main() -> int:
    args = argument_parser().parse_args()
    try:
        convert(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}\nnothing was written", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
