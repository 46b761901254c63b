#!/usr/bin/env python
"""Fine-tunes a pretrained Hiera on a folder of images with a sub-folder per class.

The classes are those of the training folder. Top-1 and top-5 on the test folder are logged every
train.eval_epochs and at the end. With --eval-only, train.init_checkpoint is evaluated: a checkpoint
of this script, or official classification weights (hiera_*_224.pth).
"""

import json

from detectron2.config import instantiate
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from omegaconf import DictConfig
from torch.utils.data import Dataset

from hiera_det.checkpoint import load_full, load_init_checkpoint, read_checkpoint
from hiera_det.engine import launch_anyhow
from pretrain.classify import AccuracyHook, accuracy
from pretrain.loop import fit, prepare

EXAMPLES = """
Examples:
  from an encoder of pretrain/export.py, or an autoencoder:
    python pretrain/finetune.py --config-file pretrain/configs/finetune_hiera_b.py --num-gpus 8 \\
        train.init_checkpoint=encoder.pth dataloader.train.dataset.root=/data/imagenet/train \\
        dataloader.test.dataset.root=/data/imagenet/val
  accuracy of official weights:
    python pretrain/finetune.py --config-file pretrain/configs/finetune_hiera_b.py --eval-only \\
        train.init_checkpoint=hiera_base_224.pth dataloader.test.dataset.root=/data/imagenet/val
"""


def set_classes(cfg: DictConfig, dataset: Dataset | None) -> None:
    """Sets model.num_classes to the number of sub-folders.

    Raises:
        ValueError: the folders differ in classes, or the weights to evaluate have another number.
    """
    test_set = instantiate(cfg.dataloader.test.dataset)
    if dataset is not None and dataset.classes != test_set.classes:
        odd = sorted(set(test_set.classes) ^ set(dataset.classes))
        raise ValueError(f"training and test folders differ in classes: {odd[:5]}")
    cfg.model.num_classes = len(test_set.classes)
    if dataset is None:
        bias = read_checkpoint(cfg.train.init_checkpoint).state.get("head.projection.bias")
        if bias is not None and len(bias) != cfg.model.num_classes:
            raise ValueError(
                f"{cfg.train.init_checkpoint} tells {len(bias)} classes apart, "
                f"{test_set.files.root} has {cfg.model.num_classes} sub-folders"
            )


def main(args) -> None:
    cfg, dataset = prepare(args, set_classes)
    train = cfg.train
    cfg.dataloader.test.dataset = instantiate(cfg.dataloader.test.dataset)
    loader, loss = instantiate(cfg.dataloader.test), instantiate(cfg.train.loss)
    model = instantiate(cfg.model).to(train.device)
    if args.eval_only:
        load_full(model, train.init_checkpoint)
        result = accuracy(model, loader, loss)
        if comm.is_main_process():
            print(json.dumps(result))
        return
    period = train.eval_epochs * train.epoch_images / cfg.dataloader.train.total_batch_size
    fit(
        cfg,
        model,
        dataset,
        loss=loss,
        facts={"source": "classification", "num_classes": cfg.model.num_classes},
        load_init=lambda path: load_init_checkpoint(
            model, path, allow_missing=["norm.*", "head.*"]
        ),
        extra_hooks=[AccuracyHook(round(period), model, loader, loss)],
        resume=args.resume,
    )


def invoke_main() -> None:
    parser = default_argument_parser(epilog=EXAMPLES)
    parser.description = __doc__
    launch_anyhow(main, parser.parse_args())


if __name__ == "__main__":
    invoke_main()
