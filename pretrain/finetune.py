#!/usr/bin/env python
"""Fine-tunes a pretrained Hiera on a folder of images with a sub-folder per class.

The classes are those of the training folder. Top-1 and top-5 on the test folder are logged every
train.eval_epochs and at the end. With --eval-only, train.init_checkpoint is evaluated: a checkpoint
of this script, or official classification weights (hiera_*_224.pth).
"""

import json

from detectron2.config import instantiate
from detectron2.engine import create_ddp_model, default_argument_parser
from detectron2.utils import comm

from hiera_det.checkpoint import load_full, load_init_checkpoint
from hiera_det.engine import launch_anyhow
from pretrain.classify import AccuracyHook, accuracy
from pretrain.loop import ddp_options, fit, prepare

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


def main(args) -> None:
    cfg, dataset = prepare(args)
    train = cfg.train
    test_set = instantiate(cfg.dataloader.test.dataset)
    classes = test_set.classes if dataset is None else dataset.classes
    if test_set.classes != classes:
        odd = sorted(set(test_set.classes) ^ set(classes))
        raise ValueError(f"training and test folders differ in classes: {odd[:5]}")
    if cfg.model.num_classes != len(classes):
        if args.eval_only:
            raise ValueError(
                f"the model has {cfg.model.num_classes} classes, {test_set.files.root} has "
                f"{len(classes)} sub-folders"
            )
        cfg.model.num_classes = len(classes)
    cfg.dataloader.test.dataset = test_set
    loader, loss = instantiate(cfg.dataloader.test), instantiate(cfg.train.loss)
    model = instantiate(cfg.model).to(train.device)
    if args.eval_only:
        load_full(model, train.init_checkpoint)
        result = accuracy(create_ddp_model(model, **ddp_options(cfg)), loader, loss)
        if comm.is_main_process():
            print(json.dumps(result))
        return
    period = train.eval_epochs * train.epoch_images / cfg.dataloader.train.total_batch_size
    fit(
        cfg,
        model,
        dataset,
        loss=loss,
        facts={"source": "classification", "num_classes": len(classes)},
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
