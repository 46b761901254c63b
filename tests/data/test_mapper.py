"""The mapper beside Detectron2's: the same on polygons, and more than it on RLE and deep pixels."""

import copy
import json

import cv2
import detectron2.data.transforms as T
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetMapper as Detectron2Mapper
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from torch.testing import assert_close

from hiera_det.config import load_config
from hiera_det.data.mapper import DatasetMapper
from hiera_det.data.shapes import make_shapes

SIZE = 96


def augmentations(size: int = 128, pad: bool = False) -> list:
    return [
        T.RandomFlip(horizontal=True),
        T.ResizeScale(min_scale=0.3, max_scale=2.0, target_height=size, target_width=size),
        T.FixedSizeCrop(crop_size=[size, size], pad=pad),
    ]


def mapper(kind=DatasetMapper, **kwargs):
    options = dict(
        augmentations=augmentations(),
        image_format="RGB",
        use_instance_mask=True,
        recompute_boxes=True,
    )
    return kind(True, **(options | kwargs))


def mapped(a_mapper, record: dict, seed: int = 0) -> dict:
    np.random.seed(seed)
    return a_mapper(record)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[dict]:
    """Generated images with polygons, and crowds as RLE."""
    folder = make_shapes(
        tmp_path_factory.mktemp("mapper"), num_train=12, num_val=1, image_size=SIZE, seed=1
    )
    file = folder / "annotations/instances_train.json"
    records = load_coco_json(str(file), str(folder / "train"))
    assert any(a["iscrowd"] for r in records for a in r["annotations"])
    return [r for r in records if any(not a["iscrowd"] for a in r["annotations"])]


def with_rle(record: dict, which=lambda k: True) -> dict:
    """The same masks as RLE, of those annotations."""
    record = copy.deepcopy(record)
    for k, annotation in enumerate(record["annotations"]):
        polygons = annotation["segmentation"]
        if which(k) and isinstance(polygons, list):
            parts = mask_utils.frPyObjects(polygons, record["height"], record["width"])
            annotation["segmentation"] = mask_utils.merge(parts)
    return record


def assert_same(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["image"], theirs["image"])
    a, b = ours["instances"], theirs["instances"]
    assert a.get_fields().keys() == b.get_fields().keys() and a.image_size == b.image_size
    assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
    assert torch.equal(a.gt_classes, b.gt_classes)
    assert type(a.gt_masks) is type(b.gt_masks)
    if isinstance(a.gt_masks, PolygonMasks):
        for one, other in zip(a.gt_masks.polygons, b.gt_masks.polygons, strict=True):
            assert all(np.array_equal(p, q) for p, q in zip(one, other, strict=True))
    else:
        assert torch.equal(a.gt_masks.tensor, b.gt_masks.tensor)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_polygons_give_what_detectron2_gives(records, image_format):
    ours = mapper(image_format=image_format)
    theirs = mapper(Detectron2Mapper, image_format=image_format)
    for k, record in enumerate(records):
        before = copy.deepcopy(record)
        assert_same(mapped(ours, record, k), mapped(theirs, record, k))
        assert record == before


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_coco_gives_what_detectron2_gives(coco_tiny, image_format):
    file = coco_tiny / "annotations/instances_train2017.json"
    ours = mapper(image_format=image_format)
    theirs = mapper(Detectron2Mapper, image_format=image_format)
    crowds = 0
    for k, record in enumerate(load_coco_json(str(file), str(coco_tiny / "train2017"))[:30]):
        crowds += sum(a["iscrowd"] for a in record["annotations"])
        if any(not a["iscrowd"] for a in record["annotations"]):
            assert_same(mapped(ours, record, k), mapped(theirs, record, k))
    assert crowds


def test_rle_masks_need_no_key(records):
    """Detectron2's default refuses them."""
    theirs = mapper(Detectron2Mapper, instance_mask_format="bitmask")
    for k, record in enumerate(records):
        rle = with_rle(record)
        found = mapped(mapper(), rle, k)
        assert isinstance(found["instances"].gt_masks, BitMasks)
        assert_same(found, mapped(theirs, rle, k))


def test_one_rle_among_polygons_makes_the_image_bitmasks(records):
    record = max(records, key=lambda r: len(r["annotations"]))
    mixed = with_rle(record, lambda k: k == len(record["annotations"]) - 1)
    kinds = {type(a["segmentation"]) for a in mixed["annotations"] if not a["iscrowd"]}
    assert kinds == {list, dict}
    found = mapped(mapper(), mixed)["instances"]
    whole = mapped(mapper(), with_rle(record))["instances"]
    assert isinstance(found.gt_masks, BitMasks) and len(found) == len(whole)
    share = (found.gt_masks.tensor == whole.gt_masks.tensor).float().mean()
    assert share > 0.99  # polygons are drawn after the resize, an RLE before it


def test_stated_mask_format_is_kept(records):
    found = mapped(mapper(instance_mask_format="bitmask"), records[0])
    assert isinstance(found["instances"].gt_masks, BitMasks)
    with pytest.raises(ValueError, match=records[0]["file_name"]):
        mapped(mapper(instance_mask_format="polygon"), with_rle(records[0]))


def test_padding_of_a_crop_is_no_object(records):
    """Detectron2 pads masks with 255, which becomes True: objects that fill the border."""
    shrunk = [T.ResizeScale(0.5, 0.5, 128, 128), T.FixedSizeCrop(crop_size=[128, 128], pad=True)]
    found = mapped(mapper(augmentations=shrunk), with_rle(records[0]))
    assert found["image"].shape == (3, 128, 128)
    masks = found["instances"].gt_masks.tensor
    assert masks[:, :64, :64].any() and not masks[:, 65:].any() and not masks[:, :, 65:].any()


def test_boxes_alone(records):
    record = copy.deepcopy(records[0])
    for annotation in record["annotations"]:
        del annotation["segmentation"]
    boxes = dict(use_instance_mask=False, recompute_boxes=False)
    found, theirs = (
        mapped(mapper(kind, **boxes), record)["instances"]
        for kind in (DatasetMapper, Detectron2Mapper)
    )
    assert not found.has("gt_masks") and len(found) > 0
    assert_close(found.gt_boxes.tensor, theirs.gt_boxes.tensor)
    with pytest.raises(ValueError, match=f"{record['file_name']}.*no 'segmentation'"):
        mapped(mapper(), record)


def test_image_of_crowds_alone_has_no_instances(records):
    record = copy.deepcopy(records[0])
    for annotation in record["annotations"]:
        annotation["iscrowd"] = 1
    assert len(mapped(mapper(), record)["instances"]) == 0


def test_testing_leaves_annotations_out(records):
    resize = [T.ResizeShortestEdge(short_edge_length=64, max_size=64)]
    found = DatasetMapper(False, augmentations=resize, image_format="RGB")(records[0])
    assert found["image"].shape == (3, 64, 64) and found["image"].dtype == torch.uint8
    assert "annotations" not in found and "instances" not in found
    assert (found["height"], found["width"]) == (SIZE, SIZE)


@pytest.mark.parametrize("is_train", [True, False])
def test_deep_pixels_through_the_config(tmp_path, is_train):
    """One key for training and testing."""
    pixels = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.png"), pixels)
    box = {"bbox": [8, 8, 30, 30], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0}
    box["segmentation"] = [[8, 8, 38, 8, 38, 38, 8, 38]]
    record = {"file_name": str(tmp_path / "a.png"), "image_id": 1, "annotations": [box]}
    means = []
    for high in (4095, 8190):
        cfg = load_config(
            "COCO/mask_rcnn_hiera_b.py",
            ["dataloader.image_size=64", f"dataloader.intensity_range=[0,{high}]"],
        )
        node = cfg.dataloader.train if is_train else cfg.dataloader.test
        node.mapper.augmentations = []
        means.append(instantiate(node.mapper)(record)["image"].float().mean().item())
    assert means == pytest.approx([127.5, 63.75], abs=0.5)


def test_wrong_size_is_told(records):
    with pytest.raises(ValueError, match="00000.jpg"):
        mapped(mapper(), {**records[0], "width": SIZE + 1})


def test_nuclei_are_mapped(nuclei):
    """Real RLE masks: every object keeps the pixels that its RLE has."""
    content = json.loads((nuclei / "annotations/instances_train.json").read_text())
    assert all(isinstance(a["segmentation"], dict) for a in content["annotations"])
    file = str(nuclei / "annotations/instances_train.json")
    for record in load_coco_json(file, str(nuclei / "train"))[:20]:
        found = mapped(mapper(augmentations=[]), record)["instances"]
        rles = [a["segmentation"] for a in record["annotations"]]
        expected = torch.from_numpy(mask_utils.decode(rles)).permute(2, 0, 1).bool()
        assert torch.equal(found.gt_masks.tensor, expected)
        assert found.gt_boxes.tensor.tolist() == [
            [x, y, x + w, y + h] for x, y, w, h in mask_utils.toBbox(rles)
        ]
