#!/usr/bin/env python
"""Draws what an autoencoder makes of masked images, as one PNG.

A row per image, four columns: the image, what the model sees of it, its reconstruction, and the
reconstruction put in where the image was hidden. The model predicts pixels normalised in each
patch; they are drawn with the true patch's mean and contrast, which flatters it.

With an encoder alone there is nothing to draw: the decoder is needed (a checkpoint of the run, or
an official mae_hiera_*.pth).
"""

import argparse
from pathlib import Path

import torch
from detectron2.config import instantiate

from hiera_det.checkpoint import read_checkpoint
from hiera_det.config import load_config
from pretrain.masking import random_keep_mask
from pretrain.pictures import draw_reconstructions, write_png
from pretrain.weights import load_mae_checkpoint, newest_checkpoint

EXAMPLES = """
Examples:
  the newest checkpoint of a run, on its own images:
    python pretrain/visualize_mae.py --run output/mae_hiera_shapes --output reconstructions.png
  official weights on your images, with more hidden:
    python pretrain/visualize_mae.py --config-file pretrain/configs/mae_hiera_b.py \\
        --weights mae_hiera_base_224.pth --output reconstructions.png \\
        dataloader.train.dataset.root=/data/images model.mask_ratio=0.75
"""


def visualize(cfg, weights: str, output: str, num_images: int, seed: int) -> Path:
    """Writes the picture of `num_images` images of the config's folder.

    Raises:
        FileExistsError: `output` is there already.
        ValueError: the weights have no decoder, or do not fit.
    """
    if Path(output).exists():
        raise FileExistsError(f"{output} is there already; give another --output")
    if "decoder_pred.weight" not in read_checkpoint(weights).state:
        raise ValueError(f"{weights} has no decoder, so it cannot reconstruct: give a whole MAE")
    model = instantiate(cfg.model)
    load_mae_checkpoint(model, weights)
    dataset = instantiate(cfg.dataloader.train.dataset)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(dataset), generator=generator)[:num_images].tolist()
    images = torch.stack([dataset.view(k) for k in chosen])
    keep_mask = random_keep_mask(len(images), dataset.num_units, dataset.mask_ratio, generator)
    return write_png(draw_reconstructions(model, images, keep_mask), output)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="DIR", help="output folder: its config and checkpoint")
    source.add_argument("--config-file", metavar="FILE", help="a config; needs --weights")
    parser.add_argument("--weights", metavar="FILE", help="an autoencoder; default: --run's newest")
    parser.add_argument("--output", metavar="PNG", required=True)
    parser.add_argument("--num-images", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="chooses images and masks")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="config overrides")
    args = parser.parse_args()
    if args.run:
        config = str(Path(args.run) / "config.yaml")
        weights = args.weights or str(newest_checkpoint(args.run))
    elif args.weights:
        config, weights = args.config_file, args.weights
    else:
        parser.error("--config-file needs --weights")
    cfg = load_config(config, args.opts)
    print(visualize(cfg, weights, args.output, args.num_images, args.seed))


if __name__ == "__main__":
    main()
