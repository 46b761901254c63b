"""Linear probe: how well a linear layer tells classes apart from a frozen trunk's features.

A quick yardstick, for folders of up to some ten thousand images: features of all images are
computed once, without augmentation (mean over the tokens of the last stage), standardised, and a
softmax regression is fitted to them with L-BFGS. It is comparable between trunks on the same
images, not with published linear probes.
"""

import argparse
import json

from .arguments import add_overrides

EXAMPLES = """
example:
  hiera-det probe --config-file pretrain/mae_hiera_b.py --weights encoder.pth \\
      --train /data/flowers/train --val /data/flowers/val
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config-file", metavar="FILE", required=True, help="of the pretraining")
    add("--weights", metavar="FILE", help="default: random, to compare with")
    add("--train", metavar="DIR", required=True, help="a sub-folder per class")
    add("--val", metavar="DIR", required=True, help="the same classes")
    add("--num-workers", type=int, default=4, metavar="N", help="loading processes (default 4)")
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    import logging

    from hiera_det.config import load_config
    from pretrain.probe import probe_weights

    logging.basicConfig(level=logging.INFO, format="%(message)s")  # the verdict, on stderr
    cfg = load_config(args.config_file, args.opts)
    print(json.dumps(probe_weights(cfg, args.weights, args.train, args.val, args.num_workers)))
