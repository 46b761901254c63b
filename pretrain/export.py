#!/usr/bin/env python
"""Writes the encoder of a pretraining run as the file that train.init_checkpoint takes.

IN is the output folder of a run, or any checkpoint of an autoencoder, official ones too. OUT is
.pth or .safetensors. It holds the trunk under official names, and what the pretraining was:
variant, pos_embed, input_size, mask_ratio, target, pixel_mean, pixel_std. What only pretraining
needs (decoder, fusion, mask token) is left out.
"""

import argparse
from pathlib import Path

from hiera_det.checkpoint import convert_state, read_checkpoint, write_checkpoint
from pretrain.weights import newest_checkpoint

EXAMPLES = """
Example, from a run to a detector:
  python pretrain/export.py output/mae_hiera_shapes encoder.pth
  python tools/lazyconfig_train_net.py --config-file configs/shapes/mask_rcnn_hiera_shapes.py \\
      train.init_checkpoint=encoder.pth
"""


def export(source: str, target: str) -> str:
    """Writes the encoder in `source`, a run's folder or a file, to `target`.

    Returns:
        What was written and what was left out, in words.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: as `read_checkpoint`, `convert_state` and
            `write_checkpoint`; the folder has no checkpoint.
    """
    path = newest_checkpoint(source) if Path(source).is_dir() else Path(source)
    file = read_checkpoint(str(path))
    try:
        converted = convert_state(file.state, variant=file.meta.get("variant"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    meta = {"source": converted.source.name, "pos_embed": converted.pos_embed}
    meta |= {"variant": converted.variant} if converted.variant else {}
    write_checkpoint(target, converted.state, meta | dict(file.meta))
    left_out = ", ".join(f"{name} ({len(k)})" for name, (_, k) in converted.left_out.items())
    return (
        f"{target}: {len(converted.state)} tensors of {converted.size} from {path}"
        f"{'; left out: ' + left_out if left_out else ''}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", help="output folder of a run, or a checkpoint")
    parser.add_argument("target", metavar="OUT", help=".pth or .safetensors; must not exist")
    args = parser.parse_args()
    print(export(args.source, args.target))


if __name__ == "__main__":
    main()
