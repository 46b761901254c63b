"""Conventions of samplers, dataset wrappers and loaders."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.data import (
    DatasetFromList,
    MapDataset,
    ToIterableDataset,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader


def take(iterable, count: int) -> list:
    return list(itertools.islice(iterable, count))


@pytest.fixture()
def as_rank(monkeypatch):
    """Pretend to be one of several processes."""

    def pretend(rank: int, world_size: int) -> None:
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: world_size)

    return pretend


# ---------------------------------------------------------------- samplers


def test_training_sampler_gives_the_recorded_indices(golden):
    """Endless permutations from torch.Generator(seed)."""
    indices = take(TrainingSampler(10, seed=5), 25)
    np.testing.assert_array_equal(indices, golden["data/train_sampler"])
    assert sorted(indices[:10]) == sorted(indices[10:20]) == list(range(10))


def test_training_sampler_deals_one_stream_out_over_the_ranks(as_rank):
    """Rank r of w takes the elements r, r + w, ... of the stream of a single process."""
    stream = take(TrainingSampler(10, seed=5), 24)
    for rank in range(3):
        as_rank(rank, 3)
        assert take(TrainingSampler(10, seed=5), 8) == stream[rank::3]


def test_training_sampler_in_order():
    """shuffle=False repeats 0..n-1."""
    assert take(TrainingSampler(3, shuffle=False), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_training_sampler_draws_its_seed_from_numpy():
    """The default seed is the shared random seed, randint(2**31) of np.random on rank 0."""
    np.random.seed(6)
    default = TrainingSampler(50)
    np.random.seed(6)
    explicit = TrainingSampler(50, seed=int(np.random.randint(2**31)))
    assert take(default, 50) == take(explicit, 50)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError)])
def test_training_sampler_needs_a_positive_int(size, error):
    with pytest.raises(error, match="TrainingSampler"):
        TrainingSampler(size)


def test_inference_sampler_has_contiguous_shards(as_rank, golden_json):
    """Every index once; the first ranks hold the remainder."""
    shards = [list(InferenceSampler._get_local_indices(10, 4, rank)) for rank in range(4)]
    assert shards == golden_json["data/inference_sampler"]
    as_rank(2, 4)
    sampler = InferenceSampler(10)
    assert list(sampler) == shards[2] and len(sampler) == 2


# ---------------------------------------------------------------- datasets


@pytest.mark.parametrize("serialize", [True, False])
def test_list_dataset_hands_out_copies(serialize):
    """Whoever changes an element does not change the dataset."""
    items = [dict(i=i, name="x" * i) for i in range(5)]
    dataset = DatasetFromList(items, serialize=serialize)
    dataset[3]["i"] = 100
    assert [dataset[i] for i in range(5)] == [dict(i=i, name="x" * i) for i in range(5)]
    assert len(dataset) == 5


def test_list_dataset_without_copies():
    """copy=False, serialize=False hands out the elements themselves."""
    items = [dict(i=0)]
    assert DatasetFromList(items, copy=False, serialize=False)[0] is items[0]


@pytest.mark.lite_only
def test_list_dataset_is_one_tensor_in_shared_memory():
    """What workers get is one tensor of bytes; every tensor travels through shared memory."""
    dataset = DatasetFromList([dict(i=i) for i in range(1000)])
    held = [v for v in vars(dataset._lst).values() if isinstance(v, torch.Tensor)]
    assert [v.dtype for v in held] == [torch.int64, torch.uint8]
    assert not any(isinstance(v, (list, dict)) for v in vars(dataset._lst).values())


def test_map_replaces_unusable_elements():
    """Where the function returns None, another element is drawn from Random(42), and elements
    that failed are not drawn again."""
    seen = []

    def odd_ones_out(i):
        seen.append(i)
        return None if i in (3, 5, 8) else i * 10

    dataset = MapDataset(list(range(10)), odd_ones_out)
    assert [dataset[i] for i in range(10)] == [0, 10, 20, 10, 40, 0, 60, 70, 70, 90]
    assert seen == [0, 1, 2, 3, 1, 4, 5, 0, 6, 7, 8, 7, 9]


@pytest.mark.lite_only
def test_map_ends_where_every_element_is_unusable():
    with pytest.raises(RuntimeError, match="None for all 4 elements"):
        MapDataset(list(range(4)), lambda i: None)[0]


@pytest.mark.parametrize("chunk", [1, 3])
def test_iterable_dataset_is_sharded_over_workers_in_chunks(chunk):
    """Worker w of n gets the chunks w, w + n, ... of what the sampler gives."""
    dataset = ToIterableDataset(
        list(range(12)), TrainingSampler(12, shuffle=False), shard_chunk_size=chunk
    )
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    # The loader takes one element from each worker in turn.
    by_worker = [take(loader, 12)[worker::2] for worker in range(2)]
    chunks = [list(range(start, start + chunk)) for start in range(0, 12, chunk)]
    assert by_worker == [sum(chunks[worker::2], []) for worker in range(2)]


def test_aspect_ratio_groups(golden_json):
    """w > h is one group, the others (squares too) the second; full groups come out at once."""
    sizes = [(4, 3), (3, 4), (5, 5), (6, 2), (2, 6), (7, 1), (1, 7), (9, 2), (3, 3)]
    items = [dict(width=w, height=h, i=i) for i, (w, h) in enumerate(sizes)]
    batches = [[x["i"] for x in batch] for batch in AspectRatioGroupedDataset(items, 2)]
    assert batches == golden_json["loader/aspect"]


# ---------------------------------------------------------------- loaders


class Ident:
    def __call__(self, item):
        return item


class WithRandomNumber:
    def __call__(self, item):
        return item["i"], np.random.rand()


ITEMS = [dict(i=i, width=4, height=3 if i % 3 else 5) for i in range(24)]


def first_batches(count: int, **options) -> list:
    options = dict(mapper=Ident(), total_batch_size=2, **options)
    loader = build_detection_train_loader(
        ITEMS, sampler=TrainingSampler(24, shuffle=False), **options
    )
    return [[x["i"] for x in batch] for batch in take(loader, count)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_train_batches_do_not_depend_on_the_number_of_workers(num_workers):
    """Workers load whole batches in turn."""
    batches = first_batches(4, num_workers=num_workers, aspect_ratio_grouping=False)
    assert batches == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_train_batches_are_grouped_by_aspect_ratio():
    """Grouping is on by default."""
    assert first_batches(5) == [[1, 2], [0, 3], [4, 5], [7, 8], [6, 9]]
    assert first_batches(5, num_workers=2) == [[2, 1], [0, 3], [4, 5], [7, 8], [6, 9]]


def test_train_batch_size_is_shared_among_processes(monkeypatch):
    """Each process gets total_batch_size / world size, or single_gpu_batch_size."""
    monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 3)
    sampler = TrainingSampler(24, shuffle=False)
    options = dict(mapper=None, sampler=sampler, aspect_ratio_grouping=False)
    loader = build_detection_train_loader(ITEMS, total_batch_size=6, **options)
    assert len(next(iter(loader))) == 2
    with pytest.raises((ValueError, AssertionError)):
        build_detection_train_loader(ITEMS, total_batch_size=4, **options)


def test_train_loader_shuffles_by_default():
    """Without a sampler: TrainingSampler with the shared random seed."""
    np.random.seed(1)
    loader = build_detection_train_loader(
        ITEMS, mapper=None, total_batch_size=24, aspect_ratio_grouping=False
    )
    indices = [x["i"] for x in next(iter(loader))]
    np.random.seed(1)
    assert indices == take(TrainingSampler(24), 24)


def test_workers_draw_different_reproducible_numbers():
    """Workers are seeded from the loader's generator, plus their index; `seed` fixes it."""

    def draw():
        loader = build_detection_train_loader(
            ITEMS,
            mapper=WithRandomNumber(),
            sampler=TrainingSampler(24, shuffle=False),
            total_batch_size=2,
            num_workers=2,
            aspect_ratio_grouping=False,
            seed=3,
        )
        return take(loader, 2)

    batches = draw()
    assert [[i for i, _ in batch] for batch in batches] == [[0, 1], [2, 3]]
    numbers = [number for batch in batches for _, number in batch]
    assert len(set(numbers)) == 4
    # torch.Generator().manual_seed(3) gives these on any machine
    expected = [0.8097172181205327, 0.20547674589601028, 0.18458623571849841, 0.7903498944931792]
    assert numbers == expected
    assert draw() == batches


def test_batches_of_other_datasets():
    """build_batch_data_loader takes any indexable dataset, and a collate function."""
    loader = build_batch_data_loader(
        list(range(10)), TrainingSampler(10, shuffle=False), 4, collate_fn=sum
    )
    assert take(loader, 2) == [0 + 1 + 2 + 3, 4 + 5 + 6 + 7]


@pytest.mark.parametrize(("num_workers", "batch_size"), [(0, 1), (2, 5)])
def test_test_loader_gives_every_element_once_in_order(num_workers, batch_size):
    """The last batch may be smaller; batches are lists."""
    loader = build_detection_test_loader(
        ITEMS, mapper=Ident(), num_workers=num_workers, batch_size=batch_size
    )
    batches = list(loader)
    assert len(loader) == len(batches) == -(-24 // batch_size)
    assert [x["i"] for batch in batches for x in batch] == list(range(24))


@pytest.mark.slow
def test_mappers_may_be_lambdas():
    """Mappers are pickled by cloudpickle, so lambdas reach spawned workers."""
    loader = build_detection_test_loader(ITEMS, mapper=lambda item: item["i"])
    assert list(loader)[:3] == [[0], [1], [2]]
    dataset = MapDataset(DatasetFromList(ITEMS), lambda item: item["i"])
    loader = DataLoader(dataset, batch_size=6, num_workers=1, multiprocessing_context="spawn")
    torch.testing.assert_close(next(iter(loader)), torch.arange(6))
