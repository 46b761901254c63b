"""Training loaders whose stream of samples is a function of the run's seed.

Every sample has a seed of its own, made from the run's seed and its place in the stream. What is
random about it depends on nothing else: not on the number of processes or loading workers, nor on
what was drawn before, so a resumed run continues with the samples of an uninterrupted one.
"""

import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from detectron2.utils.registry import locate
from detectron2.utils.serialize import PicklableWrapper
from omegaconf import DictConfig
from torch.utils.data import Dataset, IterableDataset, Sampler

__all__ = [
    "MappedDataset",
    "ResumableSampler",
    "SeededSampler",
    "build_train_loader",
    "seeded",
    "split_batch",
]

logger = logging.getLogger(__name__)

MAX_REPLACEMENTS = 100  # images tried in place of one that the mapper gives nothing for


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
            start: samples that this process has taken before.
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


class SeededSampler(Sampler):
    """`ResumableSampler` with a seed for each sample: (seed, index)."""

    def __init__(self, size: int, seed: int, start: int = 0):
        """
        Args:
            size: images of the dataset.
            seed: of the run; the same in all processes.
            start: samples that this process has taken before.
        """
        self.indices = ResumableSampler(size, seed, start)
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world_size = comm.get_rank(), comm.get_world_size()
        for k, index in enumerate(self.indices, self.start):
            place = k * world_size + rank  # in the stream of all processes
            yield int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0]), index


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch (CPU), NumPy and `random` for a while; their states are restored after it."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


class MappedDataset(Dataset):
    """A dataset and its mapper, asked for items (seed, index) as `SeededSampler` gives them.

    Where the mapper returns None, which means that it cannot use an image, a random other one takes
    its place; that too depends on the seed alone.
    """

    def __init__(self, dataset: Sequence[Any], mapper: Callable[[Any], Any] | None = None):
        """
        Args:
            dataset: indexable.
            mapper: makes an input of the model of an element; None leaves elements as they are.
        """
        self.dataset = dataset
        self.mapper = None if mapper is None else PicklableWrapper(mapper)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, int]) -> Any:
        """Raises ValueError where the mapper returns None for that image and many others."""
        seed, index = item
        with seeded(seed):
            for attempt in range(1 + MAX_REPLACEMENTS):
                element = self.dataset[index]
                data = element if self.mapper is None else self.mapper(element)
                if data is not None:
                    return data
                if attempt == 2:
                    logger.warning("the mapper returned None 3 times, from image %d on", item[1])
                index = int(torch.randint(len(self.dataset), ()))
        raise ValueError(
            f"dataloader.train.mapper returned None for image {item[1]} and for the "
            f"{MAX_REPLACEMENTS} others that were tried in its place"
        )


def build_train_loader(cfg: DictConfig, *, seed: int, start: int, batch_size: int):
    """Builds `cfg.dataloader.train` with the stream of `SeededSampler`.

    A config with a sampler of its own, or an iterable dataset, keeps its stream, which starts
    afresh. So does aspect_ratio_grouping=True its order, which depends on what was read before.

    Args:
        cfg: its `dataloader.train` calls Detectron2's build_detection_train_loader, or a function
            of the same arguments.
        seed: of the run; the same in all processes.
        start: samples that this process has taken before.
        batch_size: images of this process in a batch, whatever total_batch_size says.

    Returns:
        An endless iterable of batches.
    """
    node = cfg.dataloader.train
    kwargs = {key: instantiate(value) for key, value in node.items() if key != "_target_"}
    kwargs["total_batch_size"] = batch_size * comm.get_world_size()
    dataset = kwargs.get("dataset")
    if dataset is None or "sampler" in kwargs or isinstance(dataset, IterableDataset):
        if start:
            logger.warning("dataloader.train has its own sampler: its stream starts afresh.")
    else:
        if kwargs.get("aspect_ratio_grouping"):
            logger.warning(
                "dataloader.train.aspect_ratio_grouping=True: a resumed run sees the images in "
                "another order; with square padding it saves nothing"
            )
        if isinstance(dataset, list):
            dataset = DatasetFromList(dataset, copy=False)  # mappers copy what they change
        kwargs["dataset"] = MappedDataset(dataset, kwargs.pop("mapper", None))
        kwargs["mapper"] = None  # not Detectron2's MapDataset, whose items are whole numbers
        kwargs["sampler"] = SeededSampler(len(dataset), seed, start)
        kwargs.setdefault("aspect_ratio_grouping", False)
    target = node._target_
    build = locate(target) if isinstance(target, str) else target
    return build(**kwargs)


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
