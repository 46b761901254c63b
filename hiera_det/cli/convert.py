"""Converts the weights of any public Hiera to this project's file: a trunk, official names.

IN is official Hiera or MAE-Hiera, SAM 2 or 2.1, timm, Hugging Face, birder, or a checkpoint or
output folder of this project, of which it takes the trunk; a file, an address or the name of a
published one (docs/weights.md), which is fetched. OUT is .pth or .safetensors. The file keeps what
the weights say of themselves: variant, pos_embed, pixel mean and std of the pretraining.
train.init_checkpoint takes all of these as they are; convert to see what is in a file, to change
its position tables, or to hand it on.
"""

import argparse

from .arguments import add_offline

EXAMPLES = """
examples:
  hiera-det convert mae_hiera_base_224 hiera_b.safetensors --pos absolute_win
  hiera-det convert hiera_abswin_base_mim hiera_b_abswin.pth
  hiera-det convert sam2.1_hiera_large.pt sam2_hiera_l.pth
  hiera-det convert hiera_tiny_224.pth hiera_t_1024.pth --to 1024
  from a pretraining run to a detector:
    hiera-det convert output/mae_hiera_shapes encoder.pth
    hiera-det train --config-file shapes/mask_rcnn_hiera_shapes.py train.init_checkpoint=encoder.pth

Nothing is written if a single tensor is left over or does not fit.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("input", metavar="IN", help=".pth .pt .pyth .bin .safetensors, http(s)://, name, or run")
    add("output", metavar="OUT", help=".pth or .safetensors; must not exist")
    add(
        "--pos",
        choices=["absolute", "absolute_win"],
        help="kind of position tables to write (default: as they are); absolute_win from absolute "
        "is an approximation",
    )
    add(
        "--to",
        type=int,
        metavar="PIXELS",
        help="input size that an absolute table is made for, a multiple of 32 (absolute_win fits "
        "any size as it is); default: as it is, or 224 from absolute_win",
    )
    add(
        "--variant",
        metavar="NAME",
        help="name of the size, where shapes leave a choice: sam2_hiera_* says that the weights "
        "belong to SAM 2's windows and global blocks, hiera_* that any windows may be used",
    )
    add_offline(parser)


def run(args: argparse.Namespace) -> None:
    from hiera_det.checkpoint import convert_file

    print(
        convert_file(
            args.input, args.output, pos_embed=args.pos, pixels=args.to, variant=args.variant
        )
    )
