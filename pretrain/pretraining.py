"""MAE pretraining on the engine: the loss, the facts of a run, and pictures of reconstructions."""

import logging
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.engine import HookBase
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from hiera_det.engine import fit
from hiera_det.report.page import write_report_of_run

from .data import PretrainImages, train_loader
from .mae import MaskedAutoencoderHiera
from .masking import num_visible_units, random_keep_mask
from .pictures import draw_reconstructions, write_png
from .weights import load_mae_checkpoint, run_facts

__all__ = ["ReconstructionHook", "complete_config", "mae_loss", "run_pretraining"]

logger = logging.getLogger("pretrain")


def mae_loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """The loss of a batch (images, keep_mask)."""
    return model(*batch).loss


def complete_config(cfg: DictConfig) -> PretrainImages:
    """Sets `train.epoch_images` to the number of images, which are returned.

    Raises:
        ValueError: a config of something else.
    """
    if OmegaConf.select(cfg, "model.mask_ratio") is None:
        raise ValueError(
            "this is no config of pretraining, it has no model.mask_ratio; hiera-det train is for "
            "detectors, finetune for classifiers"
        )
    dataset = instantiate(cfg.dataloader.train.dataset)
    cfg.train.epoch_images = len(dataset)
    return dataset


def run_pretraining(cfg: DictConfig, dataset: PretrainImages, resume: bool) -> None:
    """Trains the autoencoder of the config on images of a folder."""
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
        lambda **where: train_loader(cfg, dataset, **where),
        loss=mae_loss,
        facts=run_facts(model) | {"num_images": len(dataset)},
        load_init=lambda path: load_mae_checkpoint(model, path),
        hooks=[_pictures(cfg, model, dataset)] if train.num_pictures else [],
        resume_run=resume,
    )
    write_report_of_run(cfg)
    logger.info("For detection: hiera-det convert %s encoder.pth", train.output_dir)


def _pictures(
    cfg: DictConfig, model: MaskedAutoencoderHiera, dataset: PretrainImages
) -> "ReconstructionHook":
    """Draws images from all over the dataset, with masks that stay the same."""
    train = cfg.train
    count = min(train.num_pictures, len(dataset))
    images = torch.stack([dataset.view(k * len(dataset) // count) for k in range(count)])
    keep_mask = random_keep_mask(
        count, dataset.num_units, dataset.mask_ratio, torch.Generator().manual_seed(0)
    )
    period = train.picture_epochs * train.epoch_images / cfg.dataloader.train.total_batch_size
    return ReconstructionHook(model, images, keep_mask, round(period), train.output_dir)


class ReconstructionHook(HookBase):
    """Draws reconstructions of the same images and masks as the run goes on.

    They go to TensorBoard as `reconstruction`, and to reconstructions.png in the output folder.
    """

    def __init__(
        self,
        model: MaskedAutoencoderHiera,
        images: Tensor,
        keep_mask: Tensor,
        period: int,
        folder: str,
    ):
        """
        Args:
            model: the autoencoder, not wrapped.
            images: (B, 3, H, W), uint8.
            keep_mask: (B, U).
            period: iterations; the last one is drawn in any case, and with 0 it alone.
            folder: of the PNG.
        """
        self.model, self.images, self.keep_mask = model, images, keep_mask
        self.period = period
        self.path = Path(folder) / "reconstructions.png"

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done != self.trainer.max_iter and (self.period <= 0 or done % self.period):
            return
        if not comm.is_main_process():
            return
        picture = draw_reconstructions(self.model, self.images, self.keep_mask)
        self.trainer.storage.put_image("reconstruction", picture)
        write_png(picture, self.path)
