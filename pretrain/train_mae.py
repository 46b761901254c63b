#!/usr/bin/env python
"""Pretrains a Hiera as a masked autoencoder on a folder of images.

Everything of a run is written to train.output_dir: config.yaml, log.txt, metrics.json, TensorBoard
files, checkpoints, curves.png, reconstructions.png. Then pretrain/export.py makes the file that
detection starts from.
"""

import logging

import torch
from detectron2.config import instantiate
from detectron2.engine import default_argument_parser

from hiera_det.engine import launch_anyhow
from pretrain.data import PretrainImages
from pretrain.loop import fit, prepare
from pretrain.mae import MaskedAutoencoderHiera
from pretrain.masking import num_visible_units, random_keep_mask
from pretrain.trainer import ReconstructionHook, mae_loss
from pretrain.weights import load_mae_checkpoint, run_facts

logger = logging.getLogger("pretrain")

EXAMPLES = """
Examples:
  a small Hiera on generated shapes, on any machine:
    python pretrain/train_mae.py --config-file pretrain/configs/mae_hiera_shapes.py
  your own images, flat or in sub-folders, on one GPU:
    python pretrain/train_mae.py --config-file pretrain/configs/mae_hiera_b_abswin.py \\
        dataloader.train.dataset.root=/data/images dataloader.train.total_batch_size=512 \\
        train.images_per_process=128 train.epochs=400
  8 GPUs; on several machines add torchrun's --nnodes and --rdzv-endpoint:
    torchrun --nproc-per-node 8 pretrain/train_mae.py --config-file ...
  continue a run that was stopped (options stand before key=value):        ... --resume
  continue from official weights:         ... train.init_checkpoint=mae_hiera_base_224.pth
"""


def picture_hook(cfg, model: MaskedAutoencoderHiera, dataset: PretrainImages) -> ReconstructionHook:
    """Draws images from all over the dataset, with masks that stay the same."""
    train = cfg.train
    count = min(train.num_pictures, len(dataset))
    images = torch.stack([dataset.view(k * len(dataset) // count) for k in range(count)])
    keep_mask = random_keep_mask(
        count, dataset.num_units, dataset.mask_ratio, torch.Generator().manual_seed(0)
    )
    period = train.picture_epochs * train.epoch_images / cfg.dataloader.train.total_batch_size
    return ReconstructionHook(model, images, keep_mask, round(period), train.output_dir)


def main(args) -> None:
    cfg, dataset = prepare(args)
    train = cfg.train
    model = instantiate(cfg.model).to(train.device)
    num_visible = num_visible_units(dataset.num_units, dataset.mask_ratio)
    logger.info(
        "%d of %d mask units are seen (mask_ratio %g)",
        num_visible, dataset.num_units, dataset.mask_ratio,
    )  # fmt: skip
    if model.target == "pixels":
        logger.info("A loss of 1 is what predicting the mean of each patch gives")
    fit(
        cfg,
        model,
        dataset,
        loss=mae_loss,
        facts=run_facts(model),
        load_init=lambda path: load_mae_checkpoint(model, path),
        extra_hooks=[picture_hook(cfg, model, dataset)] if train.num_pictures else [],
        resume=args.resume,
    )
    logger.info("For detection: python pretrain/export.py %s encoder.pth", train.output_dir)


def invoke_main() -> None:
    parser = default_argument_parser(epilog=EXAMPLES)
    parser.description = __doc__
    args = parser.parse_args()
    if args.eval_only:
        parser.error("there is nothing to evaluate: see visualize_mae.py and linear_probe.py")
    launch_anyhow(main, args)


if __name__ == "__main__":
    invoke_main()
