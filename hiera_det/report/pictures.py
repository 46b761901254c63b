"""Predictions of a run on its validation images, as a PNG file."""

import logging
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from omegaconf import DictConfig

__all__ = ["write_pictures"]

logger = logging.getLogger(__name__)


@torch.no_grad()
def write_pictures(cfg: DictConfig, model: torch.nn.Module) -> None:
    """Writes predictions.png into `train.output_dir`, on the main process.

    It shows the first `train.num_pictures` validation images with objects.
    """
    from hiera_det.report.predictions import draw_predictions

    if not comm.is_main_process():
        return
    folder = Path(cfg.train.output_dir)
    names = cfg.dataloader.test.dataset.names
    name = names if isinstance(names, str) else names[0]
    records = [r for r in DatasetCatalog.get(name) if r.get("annotations")]
    records = records[: cfg.train.get("num_pictures", 8)]
    if not records:
        return
    mapper = instantiate(cfg.dataloader.test.mapper)  # the same as in evaluation
    with inference_context(model):
        outputs = [model([mapper(record)])[0]["instances"].to("cpu") for record in records]
    path = draw_predictions(
        name,
        records,
        outputs,
        folder / "predictions.png",
        intensity_range=cfg.dataloader.get("intensity_range"),
        page=cfg.dataloader.get("page"),
    )
    logger.info("Ground truth beside predictions: %s", path)
