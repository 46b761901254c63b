"""The stream of training samples: the same for any number of workers, wherever it begins."""

import json
import logging
import random

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils import comm
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import IterableDataset, Sampler

from hiera_det.config import load_config
from hiera_det.data import loaders
from hiera_det.data.loaders import (
    MappedDataset,
    ResumableSampler,
    SeededSampler,
    build_train_loader,
    seeded,
    split_batch,
)

SIZES = [(40, 80), (80, 40), (64, 64), (30, 90), (90, 50), (48, 72), (72, 48)]  # (H, W)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> str:
    """A registered set of images of mixed aspect ratio with one polygon each."""
    folder = tmp_path_factory.mktemp("mixed")
    images, annotations = [], []
    for k, (height, width) in enumerate(SIZES):
        pixels = np.random.default_rng(k).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "height": height, "width": width})
        polygon = [5, 5, width - 5, 5, width - 5, height - 5, 5, height - 5]
        box = [5, 5, width - 10, height - 10]
        area = (width - 10) * (height - 10)
        annotations.append(
            {"id": k + 1, "image_id": k, "category_id": 1, "iscrowd": 0, "bbox": box, "area": area}
            | {"segmentation": [polygon]}
        )
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "thing"}]
    file = folder / "instances.json"
    file.write_text(json.dumps(content))
    register_coco_instances("mixed_aspects", {}, str(file), str(folder))
    yield "mixed_aspects"
    DatasetCatalog.remove("mixed_aspects")
    MetadataCatalog.remove("mixed_aspects")


@pytest.fixture(scope="module")
def tiny(coco_tiny) -> str:
    name = "coco_tiny_loaders"
    file = coco_tiny / "annotations/instances_train2017.json"
    register_coco_instances(name, {}, str(file), str(coco_tiny / "train2017"))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def config(name: str, *overrides: str):
    options = [f"dataloader.train.dataset.names={name}", "dataloader.image_size=96"]
    return load_config("COCO/mask_rcnn_hiera_b.py", [*options, *overrides])


def batches(cfg, start: int, count: int, num_workers: int = 0, batch_size: int = 3, seed: int = 5):
    cfg.dataloader.train.num_workers = num_workers
    torch.manual_seed(random.randrange(1000))  # of the process: without influence
    np.random.seed(random.randrange(1000))
    iterator = iter(build_train_loader(cfg, seed=seed, start=start, batch_size=batch_size))
    return [next(iterator) for _ in range(count)]


def same(a: dict, b: dict) -> bool:
    """Whether two samples are equal in image, boxes, classes and masks."""
    one, other = a["instances"], b["instances"]
    polygons = [[p.tolist() for p in each] for each in one.gt_masks.polygons]
    return (
        a["file_name"] == b["file_name"]
        and torch.equal(a["image"], b["image"])
        and torch.equal(one.gt_boxes.tensor, other.gt_boxes.tensor)
        and torch.equal(one.gt_classes, other.gt_classes)
        and polygons == [[p.tolist() for p in each] for each in other.gt_masks.polygons]
    )


def assert_equal(found: list[list[dict]], expected: list[list[dict]]) -> None:
    assert [len(batch) for batch in found] == [len(batch) for batch in expected]
    for k, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert [same(a, b) for a, b in zip(one, other, strict=True)] == [True] * len(one), k


# ------------------------------------------------------------------------------------- streams
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start", [0, 3, 15])
def test_stream_is_the_same_wherever_it_begins(mixed, start, num_workers):
    """Detectron2's grouping by aspect ratio and workers' own draws made every resume another run.
    A place that is no multiple of the workers' batches is the common case."""
    cfg = config(mixed)
    whole = batches(cfg, 0, 8)
    assert_equal(batches(cfg, start, 3, num_workers), whole[start // 3 : start // 3 + 3])


def test_stream_begins_within_a_batch(mixed):
    """A resume with another batch goes on with the next image."""
    cfg = config(mixed)
    whole = [sample for batch in batches(cfg, 0, 6, batch_size=3) for sample in batch]
    found = [sample for batch in batches(cfg, 5, 3, 2, batch_size=4) for sample in batch]
    assert_equal([found], [whole[5:17]])


@pytest.mark.slow
@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("num_workers", [0, 2, 4])
def test_coco_stream_resumes_to_the_bit(tiny, num_workers, image_format):
    formats = [f"dataloader.train.mapper.image_format={image_format}"]
    cfg = config(tiny, *formats)
    whole = batches(cfg, 0, 11, batch_size=4)
    sizes = {s["width"] > s["height"] for batch in whole for s in batch}
    assert sizes == {True, False}
    assert_equal(batches(cfg, 28, 4, num_workers, batch_size=4), whole[7:])


def test_batches_mix_aspect_ratios(mixed):
    """Square padding makes groups pointless, and one of eight waits would hold 64 images."""
    kinds = [{s["width"] > s["height"] for s in batch} for batch in batches(config(mixed), 0, 7)]
    assert {True, False} in kinds


def test_workers_load_two_batches_ahead_and_no_more(mixed):
    """Two workers hold 8 images of batches of two; with grouping each image was a batch of 8."""
    cfg = config(mixed, "dataloader.train.num_workers=2")
    loader = build_train_loader(cfg, seed=3, start=0, batch_size=2)
    assert isinstance(loader, torch.utils.data.DataLoader)  # no batches are made behind it
    per_fetch = loader.batch_size or len(next(iter(loader.batch_sampler)))
    assert loader.num_workers * loader.prefetch_factor * per_fetch == 8


def test_seeds_change_order_and_augmentation(mixed):
    cfg = config(mixed)
    one, other = batches(cfg, 0, 2, seed=5), batches(cfg, 0, 2, seed=6)
    assert [s["file_name"] for b in one for s in b] != [s["file_name"] for b in other for s in b]
    by_name: dict[str, list[torch.Tensor]] = {}
    for sample in (s for b in batches(cfg, 0, 5) for s in b):
        by_name.setdefault(sample["file_name"], []).append(sample["image"])
    again = [images for images in by_name.values() if len(images) > 1]
    assert again  # in the next epoch an image is augmented anew
    assert not any(torch.equal(images[0], images[1]) for images in again)


def test_batch_size_stands_above_the_configs(mixed):
    cfg = config(mixed, "dataloader.train.total_batch_size=64")
    assert [len(batch) for batch in batches(cfg, 0, 3, batch_size=2)] == [2, 2, 2]


def test_grouping_that_a_user_asks_for_is_told(mixed, caplog):
    cfg = config(mixed, "dataloader.train.aspect_ratio_grouping=True")
    found = batches(cfg, 0, 3)
    assert all(len({s["width"] > s["height"] for s in batch}) == 1 for batch in found)
    assert "aspect_ratio_grouping=True" in caplog.text


def test_config_without_the_key_is_not_grouped(mixed):
    """Detectron2's default is to group."""
    cfg = config(mixed)
    whole = batches(cfg, 0, 3)
    del cfg.dataloader.train.aspect_ratio_grouping
    assert_equal(batches(cfg, 0, 3), whole)


def test_sampler_of_the_config_is_kept(mixed, caplog):
    caplog.set_level(logging.WARNING)
    cfg = config(mixed)
    cfg.dataloader.train.sampler = {"_target_": f"{__name__}.Backwards", "size": len(SIZES)}
    assert [s["image_id"] for s in batches(cfg, 0, 1)[0]] == [6, 5, 4]
    assert not caplog.records
    batches(cfg, 3, 1)
    assert "starts afresh" in caplog.text


class Backwards(Sampler):
    def __init__(self, size: int):
        self.size = size

    def __iter__(self):
        yield from range(self.size)[::-1]


class Counting(IterableDataset):
    def __iter__(self):
        yield from range(100)


def test_iterable_dataset_is_kept():
    cfg = OmegaConf.create(
        {
            "dataloader": {
                "train": {
                    "_target_": "detectron2.data.build_detection_train_loader",
                    "dataset": {"_target_": f"{__name__}.Counting"},
                    "mapper": None,
                    "aspect_ratio_grouping": False,
                    "total_batch_size": 2,
                }
            }
        }
    )
    iterator = iter(build_train_loader(cfg, seed=0, start=0, batch_size=2))
    assert [next(iterator), next(iterator)] == [[0, 1], [2, 3]]


# ------------------------------------------------------------------------------------- samples
def draw(_=None) -> tuple[float, float, float]:
    return torch.rand(()).item(), np.random.rand(), random.random()


def test_sample_depends_on_its_seed_alone():
    dataset = MappedDataset(list(range(9)), draw)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    after = draw()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    first = dataset[(5, 2)]
    assert draw() == after  # the states of the process are as before
    assert dataset[(5, 2)] == first
    assert all(a != b for a, b in zip(first, dataset[(6, 2)], strict=True))


def test_states_are_restored_after_an_error():
    random.seed(1)
    expected = random.random()
    random.seed(1)
    with pytest.raises(KeyError), seeded(7):
        raise KeyError
    assert random.random() == expected


def test_image_that_the_mapper_refuses_is_replaced_by_its_seed(caplog):
    caplog.set_level(logging.WARNING)

    def mapper(k: int) -> int | None:
        return k if k % 3 == 0 else None

    dataset = MappedDataset(list(range(30)), mapper)
    found = [dataset[(seed, 1)] for seed in range(40)]
    assert all(k % 3 == 0 for k in found) and len(set(found)) > 4
    fresh = MappedDataset(list(range(30)), mapper)  # no memory of what failed
    assert [fresh[(seed, 1)] for seed in reversed(range(40))] == found[::-1]
    assert dataset[(0, 3)] == 3
    assert "None 3 times, from image 1 on" in caplog.text


def test_mapper_that_refuses_everything_raises():
    dataset = MappedDataset(list(range(5)), lambda k: None)
    with pytest.raises(ValueError, match="returned None for image 2 and for the 100 others"):
        dataset[(0, 2)]


def test_processes_share_one_stream(monkeypatch):
    def stream(rank: int, world_size: int, count: int) -> list:
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
        assert loaders.comm is comm
        iterator = iter(SeededSampler(10, seed=0))
        return [next(iterator) for _ in range(count)]

    together = stream(0, 1, 12)
    first, second = stream(0, 2, 6), stream(1, 2, 6)
    assert [x for pair in zip(first, second, strict=True) for x in pair] == together


@pytest.mark.parametrize("start", [0, 4, 25])
def test_order_is_that_of_the_sampler_without_seeds(start):
    iterator = iter(SeededSampler(10, seed=3, start=start))
    plain = iter(ResumableSampler(10, seed=3, start=start))
    assert [next(iterator)[1] for _ in range(25)] == [next(plain) for _ in range(25)]


# ------------------------------------------------------------------------------------- batches
@pytest.mark.parametrize(
    "total, processes, at_most, expected",
    [(4096, 8, 256, (256, 2)), (32, 1, 32, (32, 1)), (48, 2, 10, (8, 3)), (7, 1, 4, (1, 7))],
)
def test_split_batch(total, processes, at_most, expected):
    assert split_batch(total, processes, at_most) == expected


@pytest.mark.parametrize("total, processes, at_most", [(10, 4, 8), (0, 1, 8), (8, 1, 0)])
def test_split_batch_refuses(total, processes, at_most):
    with pytest.raises(ValueError, match=f"total_batch_size={total}"):
        split_batch(total, processes, at_most)
