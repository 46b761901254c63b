"""A training loader that continues where a resumed run stopped."""

import logging
from collections.abc import Iterator

import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig
from torch.utils.data import Sampler

__all__ = ["ResumableSampler", "build_train_loader"]

logger = logging.getLogger(__name__)


class ResumableSampler(Sampler):
    """The stream of Detectron2's TrainingSampler, begun further on.

    That is endless, one shuffle of all images after the other, dealt out to the processes. Whole
    shuffles are skipped at once: the stream itself would take minutes to get late into a long run.
    """

    def __init__(self, size: int, seed: int, start: int = 0):
        """
        Args:
            size: images of the dataset.
            seed: of the shuffles; the same in all processes.
            start: indices of this process that earlier iterations have taken.
        """
        self.size, self.seed, self.start = size, seed, start

    def __iter__(self) -> Iterator[int]:
        world_size = comm.get_world_size()
        generator = torch.Generator().manual_seed(self.seed)
        skipped, place = divmod(self.start * world_size + comm.get_rank(), self.size)
        for _ in range(skipped):
            torch.randperm(self.size, generator=generator)
        while True:
            shuffle = torch.randperm(self.size, generator=generator)
            yield from shuffle[place::world_size].tolist()
            # the next one of this process; with more processes than images, shuffles go by
            place = (place - self.size) % world_size if place < self.size else place - self.size


def split_batch(total: int, num_processes: int, images_per_process: int) -> tuple[int, int]:
    """How a batch is reached: (images of a process at once, steps whose gradients are added).

    Args:
        total: images of an optimizer step.
        num_processes: processes that share it.
        images_per_process: the most that one holds at once.

    Raises:
        ValueError: `total` does not divide among the processes, or a number is not positive.
    """
    if min(total, images_per_process) < 1 or total % num_processes:
        raise ValueError(
            f"dataloader.train.total_batch_size={total} in parts of at most images_per_process="
            f"{images_per_process}: it must be a multiple of the {num_processes} processes"
        )
    share = total // num_processes
    steps = next(
        n for n in range(1, share + 1) if share % n == 0 and share // n <= images_per_process
    )
    return share // steps, steps


def build_train_loader(cfg: DictConfig, *, seed: int, start: int = 0, batch_size: int = 0):
    node = cfg.dataloader.train
    dataset = instantiate(node.dataset)
    sampler = ResumableSampler(len(dataset), seed, start)
    kwargs = {k: instantiate(v) for k, v in node.items() if k not in ("_target_", "dataset")}
    target = node._target_
    build = locate(target) if isinstance(target, str) else target
    kwargs["total_batch_size"] = batch_size * comm.get_world_size()
    return build(dataset=dataset, sampler=sampler, **kwargs)
