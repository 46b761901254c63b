"""Detection on the engine: the losses are the model's, evaluation is COCO's."""

import logging
from typing import Any

from detectron2.config import instantiate
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn

from hiera_det.checkpoint import load_full, load_init_checkpoint
from hiera_det.config import config_text
from hiera_det.data.loaders import build_train_loader
from hiera_det.report.classes import describe_classes
from hiera_det.report.page import write_report_of_run
from hiera_det.report.pictures import write_pictures

from .checks import check_data
from .run import autocast, fit

__all__ = ["evaluate_detector", "run_evaluation", "run_training"]

logger = logging.getLogger(__name__)


def evaluate_detector(cfg: DictConfig, model: nn.Module) -> dict[str, Any]:
    """Evaluates on `cfg.dataloader.test`; every process has to call it. Results on rank 0."""
    with autocast(cfg, cfg.train.get("eval_precision")):
        results = inference_on_dataset(
            model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
        )
    if comm.is_main_process():
        print_csv_format(results)
    return results


def run_training(cfg: DictConfig, resume: bool) -> None:
    """Trains a detector, evaluates it, draws curves and predictions, and writes report.html."""
    _check_data(cfg, with_train=True)
    model = instantiate(cfg.model).to(cfg.train.device)
    shown = fit(
        cfg,
        model,
        lambda **where: build_train_loader(cfg, **where),
        evaluate=lambda model: evaluate_detector(cfg, model),
        facts=_facts(cfg),
        described=_described(cfg),
        load_init=lambda path: load_init_checkpoint(
            model,
            path,
            allow_missing=cfg.train.allow_missing,
            allow_unexpected=cfg.train.allow_unexpected,
        ),
        resume_run=resume,
    )
    write_pictures(cfg, shown)
    write_report_of_run(cfg)


def run_evaluation(cfg: DictConfig) -> dict[str, Any]:
    """Evaluates `train.init_checkpoint`, which has to hold every tensor of the model."""
    _check_data(cfg, with_train=False)
    model = instantiate(cfg.model).to(cfg.train.device)
    load_full(model, cfg.train.init_checkpoint)
    results = evaluate_detector(cfg, model)
    write_pictures(cfg, model)
    write_report_of_run(cfg)
    return results


def _check_data(cfg: DictConfig, with_train: bool) -> None:
    if comm.is_main_process():
        check_data(cfg, with_train=with_train)
    comm.synchronize()


def _facts(cfg: DictConfig) -> dict[str, str | int]:
    """What a checkpoint says of its detector, and a resumed run has to agree with."""
    facts: dict[str, str | int] = {"source": "detection"}
    num_classes = OmegaConf.select(cfg, "model.roi_heads.num_classes")
    return facts | ({"num_classes": num_classes} if num_classes is not None else {})


def _described(cfg: DictConfig) -> dict[str, Any]:
    """What a checkpoint says for `hiera_det.predict`, which then needs no other file."""
    if not comm.is_main_process():  # which alone writes
        return {}
    described: dict[str, Any] = {}
    num_classes = OmegaConf.select(cfg, "model.roi_heads.num_classes")
    names = cfg.dataloader.train.dataset.get("names")
    if num_classes is not None and names:
        described |= describe_classes(names if isinstance(names, str) else names[0], num_classes)
    described["input_format"] = OmegaConf.select(cfg, "model.input_format") or "BGR"
    text = config_text(cfg)
    if text is None:
        logger.warning("checkpoints hold no config: it has what YAML cannot hold, as a lambda")
    return described | ({"config": text} if text is not None else {})
