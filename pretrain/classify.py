"""Classification as the yardstick of pretraining: images with classes, loss and accuracy."""

import logging
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from hiera_det.data.images import ImageFiles, center_crop, random_crop
from hiera_det.modeling.pixels import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["ClassImages", "ClassificationLoss", "accuracy", "build_test_loader"]

logger = logging.getLogger(__name__)


class ClassImages(Dataset):
    """A folder with a sub-folder of images per class, as ImageNet's; classes in sorted order.

    For training, items are asked for as (seed, index) and randomly cropped and augmented; for
    tests as index, and are the middle of the image. They are (uint8 (3, H, W) in RGB, class).
    """

    def __init__(
        self,
        root: str,
        input_size: Sequence[int] = (224, 224),
        crop_scale: Sequence[float] = (0.08, 1.0),
        rand_augment: int = 9,
        max_unreadable: int = 100,
        intensity_range: Sequence[float] | None = None,
        page: int | None = None,
    ):
        """
        Args:
            root, max_unreadable, intensity_range, page: see `ImageFiles`.
            input_size: (H, W), px.
            crop_scale: smallest and largest share of the area, in training.
            rand_augment: magnitude of two operations of torchvision's RandAugment, of 10 as in
                timm, in training; 0 for none. (The paper's varies by 0.5, this one does not.)

        Raises:
            ValueError: images that lie in no sub-folder.
        """
        self.files = ImageFiles(root, max_unreadable, intensity_range, page)
        self.input_size = (int(input_size[0]), int(input_size[1]))
        self.crop_scale = tuple(crop_scale)
        # Of torchvision's 31 magnitudes 30 is the strongest, of timm's 10.
        self.augment = (
            v2.RandAugment(magnitude=rand_augment, num_magnitude_bins=11)
            if rand_augment
            else nn.Identity()
        )
        names = [os.fsdecode(name) for name in self.files.names]
        loose = [name for name in names if os.sep not in name]
        if loose:
            raise ValueError(
                f"{root}/{loose[0]} lies in no sub-folder: classification needs one per class"
            )
        folders = [name.split(os.sep)[0] for name in names]
        self.classes = sorted(set(folders))
        number = {name: k for k, name in enumerate(self.classes)}
        self.labels = torch.tensor([number[name] for name in folders])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        if isinstance(item, int):
            image, k = self.files.read(item, center_crop, self.input_size)
            return v2.functional.pil_to_tensor(image), self.labels[k]
        seed, index = item
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            image, k = self.files.read(index, random_crop, self.input_size, self.crop_scale)
            image = self.augment(v2.functional.pil_to_tensor(image))
        return image, self.labels[k]


def build_test_loader(
    dataset: ClassImages, batch_size: int = 64, num_workers: int = 4
) -> DataLoader:
    """All images once, a share per process, `batch_size` at a time."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=InferenceSampler(len(dataset)),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )


class ClassificationLoss:
    """Cross-entropy with label smoothing, of images mixed by mixup or cutmix."""

    def __init__(
        self,
        num_classes: int,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        label_smoothing: float = 0.1,
    ):
        """
        Args:
            num_classes: classes.
            pixel_mean, pixel_std: of uint8 images, per channel.
            mixup, cutmix: parameter of the Beta distribution of each; each batch takes one of the
                two at random. 0 leaves it out.
            label_smoothing: share of the target that is spread over all classes.
        """
        self.mean = torch.tensor(list(pixel_mean)).reshape(-1, 1, 1)  # (3, 1, 1)
        self.std = torch.tensor(list(pixel_std)).reshape(-1, 1, 1)
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        mixes = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0]
        self.mix = v2.RandomChoice(mixes) if mixes else None
        self.label_smoothing = label_smoothing

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to float."""
        return (images - self.mean.to(images.device)) / self.std.to(images.device)

    def __call__(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        images, labels = self.normalize(batch[0]), batch[1]
        if self.mix:
            images, labels = self.mix(images, labels)
        return F.cross_entropy(model(images), labels, label_smoothing=self.label_smoothing)


@torch.no_grad()
def accuracy(
    model: nn.Module, loader: DataLoader, loss: ClassificationLoss, max_k: int = 5
) -> dict[str, float]:
    """Top-1 and top-5 in percent over the images of all processes; every process has to call it.

    With fewer than `max_k` classes the second is of as many as there are.
    """
    device = next(model.parameters()).device
    correct1 = correct5 = count = 0
    with inference_context(model):
        for images, labels in loader:
            logits = model(loss.normalize(images.to(device)))
            best = logits.topk(min(max_k, logits.shape[1]), dim=1).indices
            hits = best == labels.to(device).unsqueeze(1)  # (B, k)
            correct1 += int(hits[:, 0].sum())
            correct5 += int(hits.sum())
            count += len(labels)
    totals = [
        sum(values) for values in zip(*comm.all_gather((correct1, correct5, count)), strict=True)
    ]
    result = {"top1": 100 * totals[0] / totals[2], "top5": 100 * totals[1] / totals[2]}
    logger.info("top-1 %.2f %%, top-5 %.2f %% of %d images", *result.values(), totals[2])
    return result
