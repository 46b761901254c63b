"""Folders of images as an endless stream of crops and masks.

Every sample of the stream has a seed of its own, made from the run's seed and the sample's place in
the stream. Crop, flip and mask depend on nothing else: not on the number of processes or workers,
and a resumed run continues with the samples that an uninterrupted one would have seen.
"""

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from hiera_det.data.loaders import ResumableSampler

from .masking import num_visible_units, random_keep_mask

__all__ = [
    "ImageFiles",
    "PretrainImages",
    "build_pretrain_loader",
    "center_crop",
    "random_crop",
    "shapes_folder",
    "train_loader",
]

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
ORIENTATION = 0x0112  # EXIF tag; 1 is upright
UPRIGHT = {  # by orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Box = tuple[float, float, float, float]  # left, upper, right, lower, in px


# ------------------------------------------------------------------------------------- files
class ImageFiles:
    """The images under a folder: flat, nested, or in one sub-folder per class.

    A file that cannot be read is reported once and its neighbour is taken instead; when there are
    too many of them it is an error. The account is shared by the workers of a loader.
    """

    def __init__(self, root: str, max_unreadable: int = 100):
        """
        Args:
            root: the folder; links to folders are followed.
            max_unreadable: files that may turn out unreadable before the run stops.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: no image in it; or it holds both train/ and val/.
        """
        self.root = os.path.expanduser(str(root))
        if not os.path.isdir(self.root):
            raise FileNotFoundError(
                f"there is no folder {self.root} of images (in a config: dataset.root)"
            )
        if all(os.path.isdir(os.path.join(self.root, split)) for split in ("train", "val")):
            raise ValueError(
                f"{self.root} holds train/ and val/: give {self.root}/train, or validation images "
                "would be trained on"
            )
        # Bytes in one array: Python strings would be copied into each worker, one by one.
        self.names = np.array(sorted(self._find()), dtype=np.bytes_)
        if not len(self.names):
            raise ValueError(
                f"{self.root} holds no image, nor do its sub-folders ({', '.join(SUFFIXES)})"
            )
        self.max_unreadable = max_unreadable
        self.unreadable = torch.zeros(len(self.names), dtype=torch.bool).share_memory_()

    def _find(self) -> Iterator[bytes]:
        seen = set()
        for folder, subfolders, files in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link back to where the walk has been
                subfolders.clear()
                continue
            seen.add(real)
            relative = os.path.relpath(folder, self.root)
            for name in files:
                if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                    yield os.fsencode(os.path.normpath(os.path.join(relative, name)))

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.names[index]))

    def read(self, index: int, crop, *args: Any) -> tuple[Image.Image, int]:
        """`crop(image, *args)` of the image, or of the next one that can be read; and its index.

        `crop` meets the same random numbers however many files were tried before.

        Raises:
            ValueError: more than `max_unreadable` files, or all, cannot be read.
        """
        random_state = torch.get_rng_state()
        for k in itertools.chain(range(index, len(self)), range(index)):
            if self.unreadable[k]:
                continue
            try:
                with Image.open(self.path(k)) as image:
                    return crop(image, *args), k
            except Exception as error:  # damaged files make Pillow raise nearly anything
                self._report(k, error)
                torch.set_rng_state(random_state)
        raise ValueError(f"none of the {len(self)} images under {self.root} can be read")

    def _report(self, index: int, error: Exception) -> None:
        self.unreadable[index] = True
        count = int(self.unreadable.sum())
        text = f"cannot read {self.path(index)}: {error}"
        if count > self.max_unreadable:
            raise ValueError(
                f"{text}. That is number {count} of the {len(self)} images that cannot be read; "
                f"max_unreadable={self.max_unreadable} allows no more"
            ) from error
        logger.warning("%s; skipped, number %d of at most %d", text, count, self.max_unreadable)


def shapes_folder() -> str:
    """The training images of the generated shapes, made on first use (`hiera_det.data.shapes`)."""
    from hiera_det.data.shapes import make_shapes

    return str(make_shapes(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "train")


# ------------------------------------------------------------------------------------- pixels
def random_crop(
    image: Image.Image, size: Sequence[int], scale: Sequence[float], flip: bool = True
) -> Image.Image:
    """torchvision's RandomResizedCrop with bicubic interpolation, and a flip half of the time.

    Args:
        image: as `Image.open` gives it, not yet decoded.
        size: (H, W) of the result.
        scale: smallest and largest share of the area.
        flip: whether to mirror it, with a probability of 1/2.

    Returns:
        RGB, of `size`.
    """
    image = _upright(image)
    top, left, height, width = v2.RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3])
    image = _resize(image, (left, top, left + width, top + height), size)
    if flip and torch.rand(()) < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def center_crop(image: Image.Image, size: Sequence[int], share: float = 224 / 256) -> Image.Image:
    """The middle of an image at `size` = (H, W): the largest box of that shape, times `share`."""
    image = _upright(image)
    width, height = image.size
    factor = share * min(width / size[1], height / size[0])
    w, h = max(1.0, size[1] * factor), max(1.0, size[0] * factor)
    left, top = (width - w) / 2, (height - h) / 2
    return _resize(image, (left, top, left + w, top + h), size)


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION))
    except Exception:  # damaged metadata; the pixels may well be intact
        return image
    return image if turn is None else image.transpose(turn)


def _resize(image: Image.Image, box: Box, size: Sequence[int]) -> Image.Image:
    """The pixels in a box, resized to (H, W), in RGB.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that leaves enough pixels, which saves
    most of the time with photographs.
    """
    width, height = image.size
    shrink = min((box[2] - box[0]) / size[1], (box[3] - box[1]) / size[0])
    if shrink >= 2:
        image.draft(None, (int(width / shrink), int(height / shrink)))
        x, y = image.size[0] / width, image.size[1] / height
        box = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
    return _to_rgb(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits; Pillow would clip them at 255
        eight = (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(eight).convert("RGB")
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown range; save it with 8 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


# ------------------------------------------------------------------------------------- stream
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
    ):
        """
        Args:
            root, max_unreadable: see `ImageFiles`.
            input_size: (H, W) of the crops, in px, multiples of 32.
            mask_ratio: share of the mask units that is hidden.
            crop_scale: smallest and largest share of the image's area.
            flip: whether to mirror a crop, with a probability of 1/2.
        """
        self.files = ImageFiles(root, max_unreadable)
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


class SeededSampler(Sampler):
    """Indices of an endless shuffled stream, dealt out to the processes, with a seed for each."""

    def __init__(self, size: int, seed: int, start: int = 0):
        """
        Args:
            size: images of the dataset.
            seed: of the run; the same in all processes.
            start: samples that each process has taken before.
        """
        self.indices = ResumableSampler(size, seed, start)
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world_size = comm.get_rank(), comm.get_world_size()
        for k, index in enumerate(self.indices, self.start):
            place = k * world_size + rank  # in the stream of all processes
            yield int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0]), index


def build_pretrain_loader(
    dataset: Dataset,
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
