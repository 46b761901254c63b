"""From registered names to batches."""

import itertools
import logging
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2 import absent_message
from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.common import (
    AspectRatioGroupedDataset,
    DatasetFromList,
    MapDataset,
    ToIterableDataset,
)
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

__all__ = [
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "get_detection_dataset_dicts",
    "print_instances_class_histogram",
]

logger = logging.getLogger(__name__)


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """The images that have at least one annotation that is not a crowd."""
    kept = [d for d in dataset_dicts if any(a.get("iscrowd", 0) == 0 for a in d["annotations"])]
    logger.info(
        "Removed %d images with no usable annotations. %d images left.",
        len(dataset_dicts) - len(kept),
        len(kept),
    )
    return kept


def print_instances_class_histogram(dataset_dicts: list[dict], class_names: Sequence[str]) -> None:
    """Log how many instances of each class there are; crowds are not counted."""
    annos = (anno for d in dataset_dicts for anno in d["annotations"])
    classes = [anno["category_id"] for anno in annos if not anno.get("iscrowd", 0)]
    counts = np.bincount(np.array(classes, dtype=np.int64), minlength=len(class_names))
    cells = [x for name, n in zip(class_names, counts, strict=True) for x in (name[:16], int(n))]
    columns = min(6, len(cells))
    if len(class_names) > 1:
        cells += ["total", int(counts.sum())]
    cells += [None] * (-len(cells) % columns)
    table = tabulate(
        [cells[i : i + columns] for i in range(0, len(cells), columns)],
        headers=["category", "#instances"] * (columns // 2),
        tablefmt="pipe",
        numalign="left",
        stralign="center",
    )
    logger.info("Distribution of instances among all %d categories:\n%s", len(counts), table)


def get_detection_dataset_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> list[dict]:
    """Load registered datasets and concatenate them.

    Args:
        names: one or more registered names.
        filter_empty: drop images with no annotation, or with crowds only. For training.
        check_consistency: the datasets must agree on the class names; the histogram of the
            instances is logged.

    Raises:
        ValueError: a dataset is empty, or nothing is left, or the class names differ.
    """
    if min_keypoints or proposal_files:
        raise NotImplementedError(
            absent_message("get_detection_dataset_dicts(min_keypoints=, proposal_files=)")
        )
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("get_detection_dataset_dicts needs at least one dataset name")
    loaded = [DatasetCatalog.get(name) for name in names]
    for name, dicts in zip(names, loaded, strict=True):
        if len(dicts) == 0:
            raise ValueError(f"dataset {name!r} is empty")
    dataset_dicts = list(itertools.chain.from_iterable(loaded))

    annotated = "annotations" in dataset_dicts[0]
    if filter_empty and annotated:
        dataset_dicts = filter_images_with_only_crowd_annotations(dataset_dicts)
    if check_consistency and annotated:
        check_metadata_consistency("thing_classes", names)
        class_names = MetadataCatalog.get(names[0]).get("thing_classes")
        if class_names is not None:
            print_instances_class_histogram(dataset_dicts, class_names)
    if not dataset_dicts:
        raise ValueError(f"no image with a usable annotation in {', '.join(names)}")
    return dataset_dicts


def build_batch_data_loader(
    dataset: Dataset,
    sampler: Sampler | None,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    drop_last: bool = True,
    single_gpu_batch_size: int | None = None,
    prefetch_factor: int | None = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> Iterable[list]:
    """Batches for training, of ``total_batch_size / world size`` elements in each process.

    Args:
        dataset: indexable, or iterable with ``sampler=None``.
        sampler: gives indices; they are shared out among the workers by whole batches.
        aspect_ratio_grouping: batch wide images with wide ones. Elements must be dicts with
            ``width`` and ``height``.
        num_workers: processes that load data; 0 loads in this one.
        collate_fn: of a batch; by default the list itself.
        single_gpu_batch_size: elements in each process, instead of ``total_batch_size``.
        prefetch_factor: batches that each worker loads ahead; used with workers only.
        seed: of the workers' random state.
        kwargs: more arguments of ``torch.utils.data.DataLoader``.
    """
    batch_size = _batch_size_per_process(total_batch_size, single_gpu_batch_size)
    if isinstance(dataset, IterableDataset):
        if sampler is not None:
            raise ValueError("an iterable dataset has its own order: pass sampler=None")
    else:
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    options = dict(
        num_workers=num_workers,
        worker_init_fn=worker_init_reset_seed,
        prefetch_factor=prefetch_factor if num_workers > 0 else None,
        persistent_workers=persistent_workers,
        pin_memory=pin_memory,
        generator=None if seed is None else torch.Generator().manual_seed(seed),
        **kwargs,
    )
    if not aspect_ratio_grouping:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            collate_fn=trivial_batch_collator if collate_fn is None else collate_fn,
            **options,
        )
    if not drop_last or collate_fn is not None:
        raise NotImplementedError(
            "aspect_ratio_grouping=True with drop_last=False or with a collate_fn is not in "
            "detectron2_lite; install Detectron2"
        )
    # Workers hand over single elements; batches form in this process, where all of them meet.
    singles = DataLoader(dataset, collate_fn=operator.itemgetter(0), **options)
    return AspectRatioGroupedDataset(singles, batch_size)


def _batch_size_per_process(total: int, per_process: int | None) -> int:
    if per_process:
        return per_process
    world_size = get_world_size()
    if total <= 0 or total % world_size:
        raise ValueError(
            f"total_batch_size={total} must be a positive multiple of the {world_size} processes"
        )
    return total // world_size


def build_detection_train_loader(
    dataset: list[dict] | Dataset,
    *,
    mapper: Callable[[dict], dict] | None,
    sampler: Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    **kwargs: Any,
) -> Iterable[list]:
    """Endless shuffled batches.

    Args:
        dataset: list of dicts as ``get_detection_dataset_dicts`` returns it, or any dataset.
        mapper: makes an input of the model from a dict; None leaves the elements as they are.
        sampler: a ``TrainingSampler`` by default.
        total_batch_size: images in a batch over all processes.
        kwargs: see ``build_batch_data_loader``.
    """
    dataset = _mapped(dataset, mapper)
    if sampler is None and not isinstance(dataset, IterableDataset):
        sampler = TrainingSampler(len(dataset))
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def build_detection_test_loader(
    dataset: list[dict] | Dataset,
    *,
    mapper: Callable[[dict], dict] | None,
    sampler: Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
) -> DataLoader:
    """Every element once over all processes, in order. Arguments as for the training loader;
    ``batch_size`` counts the images in one process."""
    dataset = _mapped(dataset, mapper)
    if sampler is None and not isinstance(dataset, IterableDataset):
        sampler = InferenceSampler(len(dataset))
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=trivial_batch_collator if collate_fn is None else collate_fn,
    )


def _mapped(dataset: list[dict] | Dataset, mapper: Callable[[dict], dict] | None) -> Dataset:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MapDataset(dataset, mapper)


def trivial_batch_collator(batch: list) -> list:
    """The batch itself: images of different sizes cannot be stacked."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed every random generator of a worker from torch's, which differs between workers."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
