"""Pictures of reconstructions beside their images, as PNG files."""

from pathlib import Path

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid

from hiera_det.checkpoint import read_checkpoint

from .mae import UNIT, MaskedAutoencoderHiera
from .masking import random_keep_mask
from .targets import patch_statistics, patchify, unpatchify
from .weights import has_decoder, load_mae_checkpoint

__all__ = ["COLUMNS", "draw_reconstructions", "reconstruct", "write_png"]

COLUMNS = ("image", "what is seen", "reconstruction", "reconstruction where hidden")
GREY, GAP = 128, 4


@torch.no_grad()
def draw_reconstructions(
    model: MaskedAutoencoderHiera, images: Tensor, keep_mask: Tensor
) -> Tensor:
    """One row per image, four columns: see `COLUMNS`.

    The model predicts pixels normalised in each patch; they are given back the mean and contrast
    of the true patch, so the picture flatters the model in both. With the HOG target, of which
    there is no picture, the last two columns are left out.

    Args:
        model: in any mode; it is left in that mode.
        images: (B, 3, H, W), uint8.
        keep_mask: (B, U), True where visible.

    Returns:
        uint8 (3, height, width), on the CPU.
    """
    device = model.pos_embed.device
    images, keep_mask = images.to(device), keep_mask.to(device)
    size = (images.shape[-2], images.shape[-1])
    grid = (size[0] // UNIT, size[1] // UNIT)
    visible = keep_mask.unflatten(1, grid).unsqueeze(1).float()  # (B, 1, Uh, Uw)
    visible = F.interpolate(visible, scale_factor=UNIT, mode="nearest").bool()
    columns = [images, torch.where(visible, images, GREY)]
    if model.target == "pixels":
        was_training = model.training
        model.eval()
        predictions = model(images, keep_mask).predictions
        model.train(was_training)
        mean, deviation = patch_statistics(patchify(model.preprocess(images)))
        pixels = unpatchify(predictions * deviation + mean, size)
        pixels = (pixels * model.pixel_std + model.pixel_mean).round().clamp(0, 255).byte()
        columns += [pixels, torch.where(visible, images, pixels)]
    tiles = torch.stack(columns, dim=1).flatten(0, 1)  # (B, columns, ...) -> (B * columns, ...)
    return make_grid(tiles.cpu(), nrow=len(columns), padding=GAP, pad_value=255)


def write_png(picture: Tensor, path: str | Path) -> Path:
    """Writes uint8 (3, H, W); the folder is created if missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)  # (3, H, W) -> (H, W, 3)
    return path


def reconstruct(cfg: DictConfig, weights: str, output: str, num_images: int, seed: int = 0) -> Path:
    """Writes the picture of `num_images` images of the config's folder.

    Raises:
        FileExistsError: `output` is there already.
        ValueError: the weights have no decoder, or do not fit.
    """
    if Path(output).exists():
        raise FileExistsError(f"{output} is there already; give another --output")
    if not has_decoder(read_checkpoint(weights).state):
        raise ValueError(
            f"{weights} has no decoder that is known here, so it cannot reconstruct: give a whole "
            "MAE, official or of this project"
        )
    model = instantiate(cfg.model)
    load_mae_checkpoint(model, weights)
    dataset = instantiate(cfg.dataloader.train.dataset)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(dataset), generator=generator)[:num_images].tolist()
    images = torch.stack([dataset.view(k) for k in chosen])
    keep_mask = random_keep_mask(len(images), dataset.num_units, dataset.mask_ratio, generator)
    return write_png(draw_reconstructions(model, images, keep_mask), output)
