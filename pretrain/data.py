"""Pretraining data: folders of images as an endless stream of crops and masks.

Crop, flip and mask of a sample depend on its seed alone (`hiera_det.data.loaders`).
"""

import os
from collections.abc import Sequence

import torch
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from hiera_det.data.images import ImageFiles, center_crop, random_crop
from hiera_det.data.loaders import SeededSampler

from .classify import ClassImages
from .masking import num_visible_units, random_keep_mask

__all__ = ["PretrainImages", "build_pretrain_loader", "shapes_folder", "train_loader"]


class PretrainImages(Dataset):
    """Random crops of the images of a folder, each with a mask.

    Items are asked for as (seed, index) and are (image, keep_mask): uint8 (3, H, W) in RGB, and
    bool (U,) over mask units in raster order, True where visible.
    """

    def __init__(
        self,
        root: str,
        input_size: Sequence[int] = (224, 224),
        mask_ratio: float = 0.6,
        crop_scale: Sequence[float] = (0.2, 1.0),
        flip: bool = True,
        max_unreadable: int = 100,
        intensity_range: Sequence[float] | None = None,
        page: int | None = None,
    ):
        """
        Args:
            root, max_unreadable, intensity_range, page: see `ImageFiles`.
            input_size: (H, W) of the crops, in px, multiples of 32.
            mask_ratio: share of the mask units that is hidden.
            crop_scale: smallest and largest share of the image's area.
            flip: whether to mirror a crop, with a probability of 1/2.
        """
        self.files = ImageFiles(root, max_unreadable, intensity_range, page)
        self.input_size = (int(input_size[0]), int(input_size[1]))
        self.mask_ratio = mask_ratio
        self.crop_scale = tuple(crop_scale)
        self.flip = flip
        self.num_units = self.input_size[0] * self.input_size[1] // 32**2
        num_visible_units(self.num_units, mask_ratio)  # raises if it masks all or none

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        seed, index = item
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            keep_mask = random_keep_mask(1, self.num_units, self.mask_ratio)[0]
            image, _ = self.files.read(
                index, random_crop, self.input_size, self.crop_scale, self.flip
            )
        return v2.functional.pil_to_tensor(image), keep_mask

    def view(self, index: int) -> Tensor:
        """An image without randomness, to look at: uint8 (3, H, W), the middle."""
        image, _ = self.files.read(index, center_crop, self.input_size)
        return v2.functional.pil_to_tensor(image)


def build_pretrain_loader(
    dataset: PretrainImages | ClassImages,
    total_batch_size: int,
    num_workers: int = 4,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    start: int = 0,
) -> DataLoader:
    """An endless loader of the batches of one process.

    Args:
        dataset: takes items (seed, index).
        total_batch_size: images of an optimizer step, over all processes.
        num_workers: loading processes beside each process.
        batch_size: images of this process at once; its share of the total by default.
        seed: of the run.
        start: images that this process has taken before.
    """
    return StreamLoader(
        dataset,
        batch_size=batch_size or total_batch_size // comm.get_world_size(),
        sampler=SeededSampler(len(dataset), seed, start),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
    )


class StreamLoader(DataLoader):
    """A DataLoader over a stream of images of a folder, which knows their files."""

    dataset: PretrainImages | ClassImages

    def names(self, first: int, count: int) -> list[str]:
        """The files of `count` images from number `first` of this loader on."""
        numbered = zip(range(first + count), self.sampler, strict=False)
        return [self.dataset.files.path(index) for k, (_, index) in numbered if k >= first]


def train_loader(cfg: DictConfig, dataset: Dataset, **where: int) -> DataLoader:
    """`cfg.dataloader.train` over a dataset that is there; `where`: seed, start, batch_size."""
    node = {k: v for k, v in cfg.dataloader.train.items() if k not in ("_target_", "dataset")}
    target = cfg.dataloader.train._target_
    build = locate(target) if isinstance(target, str) else target
    return build(dataset=dataset, **node, **where)


def shapes_folder() -> str:
    """The training images of the generated shapes, made on first use (`hiera_det.data.shapes`)."""
    from hiera_det.data.shapes import make_shapes

    return str(make_shapes(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "train")
