"""Datasets: lists kept out of the garbage collector's sight, mapping, sharding, grouping."""

import copy
import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from detectron2 import absent_message
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "ToIterableDataset"]

logger = logging.getLogger(__name__)

_RETRIES_BEFORE_WARNING = 3


class _SerializedList:
    """A list pickled into one byte tensor.

    Forked workers touch the reference count of every Python object that they read, which copies
    its page, until each worker holds the whole list. Bytes in a tensor have no reference counts,
    and workers that are spawned get the tensor through shared memory.
    """

    def __init__(self, items: list) -> None:
        pickled = [np.frombuffer(pickle.dumps(x, protocol=-1), dtype=np.uint8) for x in items]
        self._ends = torch.from_numpy(np.cumsum([len(x) for x in pickled], dtype=np.int64))
        self._bytes = torch.from_numpy(np.concatenate(pickled or [np.empty(0, np.uint8)]))
        logger.info(
            "Serialized %d elements into one tensor of %.2f MiB",
            len(items),
            len(self._bytes) / 1024**2,
        )

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, idx: int) -> Any:
        start = self._ends[idx - 1].item() if idx > 0 else 0
        return pickle.loads(memoryview(self._bytes[start : self._ends[idx].item()].numpy()))


class DatasetFromList(Dataset):
    """A list as a dataset.

    Args:
        lst: the elements.
        copy: hand out deep copies, so that a mapper may change what it gets.
        serialize: hold the list as one byte tensor, which workers share; elements are then
            always fresh. May be a callable that takes the list and returns an indexable.
    """

    def __init__(
        self, lst: list, copy: bool = True, serialize: bool | Callable[[list], Any] = True
    ) -> None:
        if serialize:
            lst = serialize(lst) if callable(serialize) else _SerializedList(lst)
        self._lst = lst
        self._copy = copy and not serialize

    def __len__(self) -> int:
        return len(self._lst)

    def __getitem__(self, idx: int) -> Any:
        if not 0 <= idx < len(self):
            raise IndexError(f"index {idx} of a dataset of {len(self)}")
        item = self._lst[idx]
        return copy.deepcopy(item) if self._copy else item


class MapDataset(Dataset):
    """Apply ``map_func`` to the elements of a dataset.

    Where ``map_func`` returns None the element cannot be used, and a random other one takes its
    place; an element that failed once is not drawn as a replacement.
    """

    def __init__(self, dataset: Dataset, map_func: Callable[[Any], Any]) -> None:
        if isinstance(dataset, IterableDataset):
            raise NotImplementedError(absent_message("MapDataset over an IterableDataset"))
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)
        self._rng = random.Random(42)
        self._unusable: set[int] = set()

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        """
        Raises:
            RuntimeError: ``map_func`` returned None for every element.
        """
        current = int(idx)
        for attempt in itertools.count(1):
            data = self._map_func(self._dataset[current])
            if data is not None:
                self._unusable.discard(current)
                return data
            self._unusable.add(current)
            others = [i for i in range(len(self)) if i not in self._unusable]
            if not others:
                raise RuntimeError(
                    f"the mapper returned None for all {len(self)} elements of the dataset"
                )
            current = self._rng.choice(others)
            if attempt == _RETRIES_BEFORE_WARNING:
                logger.warning("The mapper returned None %d times, from index %d", attempt, idx)


class ToIterableDataset(IterableDataset):
    """A dataset in the order of a sampler, as an iterable.

    Args:
        dataset: indexable.
        sampler: gives indices, the same ones in every worker.
        shard_sampler: share the indices out among the loader's workers. False when the sampler
            does so itself.
        shard_chunk_size: consecutive indices that go to one worker; the batch size makes batches
            equal whatever the number of workers.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: Sampler | Iterable[int],
        shard_sampler: bool = True,
        shard_chunk_size: int = 1,
    ) -> None:
        if not isinstance(sampler, Iterable):
            raise TypeError(f"the sampler gives no indices: {type(sampler).__name__}")
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info() if self.shard_sampler else None
        for position, idx in enumerate(self.sampler):
            chunk = position // self.shard_chunk_size
            if worker is None or chunk % worker.num_workers == worker.id:
                yield self.dataset[idx]

    def __len__(self) -> int:
        return len(self.sampler)


class AspectRatioGroupedDataset(IterableDataset):
    """Batches of wide images and batches of others, which waste less memory on padding.

    Args:
        dataset: iterable of dicts with ``width`` and ``height``.
        batch_size: a batch is given out as soon as its group holds that many.
    """

    def __init__(self, dataset: Iterable[dict], batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        # Kept between iterations, so that no image is lost when an iterator is dropped.
        self._groups: tuple[list[dict], list[dict]] = ([], [])

    def __iter__(self) -> Iterator[list[dict]]:
        for item in self.dataset:
            group = self._groups[0 if item["width"] > item["height"] else 1]
            group.append(item)
            if len(group) == self.batch_size:
                batch = group[:]
                group.clear()
                yield batch
