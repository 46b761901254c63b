"""Samplers that know the rank of their process."""

import itertools
from collections.abc import Iterator

import torch
from detectron2.utils import comm
from torch.utils.data import Sampler

__all__ = ["InferenceSampler", "TrainingSampler"]


class TrainingSampler(Sampler[int]):
    """Endless indices: one permutation of the dataset after another, dealt out over the ranks.

    Every rank draws the same permutations and takes every world-size-th index, from its own rank
    on, of the endless stream.

    Args:
        size: length of the dataset.
        shuffle: False goes through the dataset in order.
        seed: of the permutations, the same on all ranks; by default drawn and shared.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler needs an int as size, got {size!r}")
        if size <= 0:
            raise ValueError(f"TrainingSampler over {size} images: the dataset is empty")
        self._size = size
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            if self._shuffle:
                yield from torch.randperm(self._size, generator=generator).tolist()
            else:
                yield from range(self._size)


class InferenceSampler(Sampler[int]):
    """Every index once over all ranks: contiguous shards, whose lengths differ by at most one.

    Args:
        size: length of the dataset.
    """

    def __init__(self, size: int) -> None:
        if size <= 0:
            raise ValueError(f"InferenceSampler over {size} images: the dataset is empty")
        self._local_indices = self._get_local_indices(size, comm.get_world_size(), comm.get_rank())

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        """Shard of a rank; the first ranks hold the remainder."""
        length, remainder = divmod(total_size, world_size)
        start = rank * length + min(rank, remainder)
        return range(start, start + length + (rank < remainder))

    def __iter__(self) -> Iterator[int]:
        yield from self._local_indices

    def __len__(self) -> int:
        return len(self._local_indices)
