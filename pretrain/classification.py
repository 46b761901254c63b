"""Fine-tuning on the engine: classes from the folders, accuracy as the evaluation."""

import json
from pathlib import Path

from detectron2.config import instantiate
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn
from torch.utils.data import DataLoader

from hiera_det.checkpoint import load_full, load_init_checkpoint, read_checkpoint
from hiera_det.engine import fit
from hiera_det.engine.run import autocast
from hiera_det.report.page import write_report_of_run

from .classify import ClassificationLoss, ClassImages, accuracy
from .data import train_loader

__all__ = ["complete_config", "run_evaluation", "run_finetuning"]


def complete_config(cfg: DictConfig, with_train: bool) -> ClassImages | None:
    """Sets `model.num_classes`, `train.epoch_images` and `train.eval_period` from the folders.

    Returns:
        The training images; none without training.

    Raises:
        ValueError: the folders differ in classes, the weights to evaluate have another number, or
            the config is of something else.
    """
    train = cfg.train
    if "loss" not in train:
        raise ValueError(
            "this is no config of a classifier, it has no train.loss; hiera-det train is for "
            "detectors, pretrain for autoencoders"
        )
    test_set = instantiate(cfg.dataloader.test.dataset)
    cfg.model.num_classes = len(test_set.classes)
    if not with_train:
        bias = read_checkpoint(train.init_checkpoint).state.get("head.projection.bias")
        if bias is not None and len(bias) != cfg.model.num_classes:
            raise ValueError(
                f"{train.init_checkpoint} tells {len(bias)} classes apart, "
                f"{test_set.files.root} has {cfg.model.num_classes} sub-folders"
            )
        return None
    dataset = instantiate(cfg.dataloader.train.dataset)
    if dataset.classes != test_set.classes:
        odd = sorted(set(test_set.classes) ^ set(dataset.classes))
        raise ValueError(f"training and test folders differ in classes: {odd[:5]}")
    train.epoch_images = len(dataset)
    train.eval_period = round(
        train.eval_epochs * len(dataset) / cfg.dataloader.train.total_batch_size
    )
    return dataset


def run_finetuning(cfg: DictConfig, dataset: ClassImages, resume: bool) -> None:
    """Trains the classifier of the config on images of a folder."""
    test_loader, loss = instantiate(cfg.dataloader.test), instantiate(cfg.train.loss)
    model = instantiate(cfg.model).to(cfg.train.device)
    fit(
        cfg,
        model,
        lambda **where: train_loader(cfg, dataset, **where),
        loss=loss,
        evaluate=lambda model: _accuracy(cfg, model, test_loader, loss),
        facts={
            "source": "classification",
            "num_classes": cfg.model.num_classes,
            "num_images": len(dataset),
        },
        load_init=lambda path: load_init_checkpoint(
            model, path, allow_missing=["norm.*", "head.*"]
        ),
        resume_run=resume,
    )
    write_report_of_run(cfg)


def run_evaluation(cfg: DictConfig) -> dict[str, float]:
    """Accuracy of `train.init_checkpoint`, which is printed and written to results.json."""
    model = instantiate(cfg.model).to(cfg.train.device)
    load_full(model, cfg.train.init_checkpoint)
    test_loader, loss = instantiate(cfg.dataloader.test), instantiate(cfg.train.loss)
    result = _accuracy(cfg, model, test_loader, loss)
    if comm.is_main_process():
        print(json.dumps(result))
        (Path(cfg.train.output_dir) / "results.json").write_text(json.dumps(result) + "\n")
    return result


def _accuracy(
    cfg: DictConfig, model: nn.Module, loader: DataLoader, loss: ClassificationLoss
) -> dict[str, float]:
    """`accuracy` in the precision of `train.eval_precision`."""
    with autocast(cfg, cfg.train.get("eval_precision")):
        return accuracy(model, loader, loss)
