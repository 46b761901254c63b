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


def build_train_loader(cfg: DictConfig, seed: int, start_iter: int = 0):
    """Builds `cfg.dataloader.train` with a sampler that skips what `start_iter` iterations took.

    A config with a sampler of its own keeps it, and starts that one afresh.
    """
    node = cfg.dataloader.train
    if "sampler" in node or "dataset" not in node:
        if start_iter:
            logger.warning("dataloader.train has its own sampler: its stream starts afresh.")
        return instantiate(node)
    dataset = instantiate(node.dataset)
    per_process = node.total_batch_size // comm.get_world_size()
    sampler = ResumableSampler(len(dataset), seed, start_iter * per_process)
    kwargs = {k: instantiate(v) for k, v in node.items() if k not in ("_target_", "dataset")}
    target = node._target_
    build = locate(target) if isinstance(target, str) else target
    return build(dataset=dataset, sampler=sampler, **kwargs)
