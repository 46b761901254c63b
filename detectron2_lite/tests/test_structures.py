"""Boxes, Instances, ImageList and masks."""

import copy
import pickle

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    ImageList,
    Instances,
    PolygonMasks,
    ROIMasks,
    pairwise_iou,
    polygons_to_bitmask,
)
from detectron2.structures.masks import rasterize_polygons_within_box
from golden_inputs import assert_golden, random_boxes, random_polygons

# Detectron2 asserts where the lite one raises a ValueError.
BAD_INPUT = (AssertionError, ValueError)


def _polygons():
    """Five polygons in 60x80, and their boxes."""
    return random_polygons(np.random.RandomState(52), 5, 60, 80)


def _assert_golden_bits(masks, expected):
    """``expected`` is the packed bits of ``masks``."""
    assert masks.dtype == torch.bool
    np.testing.assert_array_equal(np.packbits(masks.numpy()), expected)


# ---------------------------------------------------------------- boxes


def test_box_mode_values(golden_json):
    """The numbers of BoxMode stand in dataset dicts."""
    assert {mode.name: int(mode) for mode in BoxMode} == golden_json["boxes/mode"]


def test_box_mode_converts_arrays(golden):
    """XYXY to XYWH keeps the corner and subtracts it from the other."""
    xywh = BoxMode.convert(random_boxes(7, 3).numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    np.testing.assert_allclose(xywh, golden["boxes/xywh"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "make", [list, tuple, lambda b: np.array([b]), lambda b: torch.tensor([b])]
)
def test_box_mode_keeps_the_type(make):
    """A list, tuple, array or tensor gives the same type, and comes back."""
    xywh = make([1.0, 2.0, 3.0, 4.0])
    xyxy = BoxMode.convert(xywh, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert type(xyxy) is type(xywh)
    assert np.ravel(xyxy).tolist() == [1, 2, 4, 6]
    back = BoxMode.convert(xyxy, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    assert np.ravel(back).tolist() == [1, 2, 3, 4]
    assert BoxMode.convert(xywh, BoxMode.XYWH_ABS, BoxMode.XYWH_ABS) is xywh


def test_box_mode_computes_lists_in_float32():
    """A list of floats is rounded to float32, as if it were a tensor."""
    box = BoxMode.convert([0.1, 0.2, 0.3, 0.4], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    expected = torch.tensor([0.1, 0.2, 0.3, 0.4])
    expected[2:] += expected[:2]
    assert box == expected.tolist()


def test_box_mode_refuses_five_numbers():
    with pytest.raises(BAD_INPUT):
        BoxMode.convert([1.0, 2, 3], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)


def test_iou_of_degenerate_boxes_is_zero(golden):
    """IoU of a zero-width box with itself is 0, not nan."""
    a, b = random_boxes(4, 5), random_boxes(5, 7)
    a[0] = b[0] = torch.tensor([10.0, 10, 10, 30])
    iou = pairwise_iou(Boxes(a), Boxes(b))
    assert iou[0, 0] == 0
    assert_golden(iou, golden["boxes/iou"], 1e-6)


def test_iou_by_hand():
    """A 10x10 box and one moved by half share 50 of 150."""
    iou = pairwise_iou(
        Boxes(torch.tensor([[0.0, 0, 10, 10]])),
        Boxes(torch.tensor([[5.0, 0, 15, 10], [0, 0, 10, 10], [10, 0, 20, 10]])),
    )
    torch.testing.assert_close(iou, torch.tensor([[1 / 3, 1.0, 0.0]]))
    assert pairwise_iou(Boxes(torch.zeros(0, 4)), Boxes(torch.zeros(3, 4))).shape == (0, 3)


def test_clip_and_nonempty(golden):
    """clip takes (height, width); nonempty is strict."""
    boxes = Boxes(random_boxes(6, 8))
    boxes.clip((100, 150))
    assert_golden(boxes.tensor, golden["boxes/clip"], 1e-6)
    assert_golden(boxes.nonempty(threshold=0.0), golden["boxes/nonempty"], 0)
    with pytest.raises(BAD_INPUT):
        Boxes(torch.tensor([[0.0, 0, float("nan"), 1]])).clip((5, 5))


def test_boxes_measure_by_hand():
    """Areas, centres, in-place scaling by x and y, and what lies inside (height, width)."""
    boxes = Boxes(torch.tensor([[0.0, 0, 10, 20], [5, 5, 20, 25]]))
    assert boxes.area().tolist() == [200, 300]
    assert boxes.inside_box((26, 20)).tolist() == [True, False]
    assert boxes.inside_box((26, 20), boundary_threshold=1).tolist() == [True, True]
    boxes.scale(2, 0.5)
    assert boxes.tensor.tolist() == [[0, 0, 20, 10], [10, 2.5, 40, 12.5]]


def test_boxes_are_a_sequence():
    """Indexing gives Boxes, iterating tensors (4,); dtype is always float32."""
    boxes = Boxes([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]])
    assert boxes.tensor.dtype == torch.float32
    assert boxes[1].tensor.tolist() == [[0, 0, 2, 2]]
    assert boxes[-2:].tensor.shape == (2, 4)
    assert len(boxes[torch.tensor([True, False, True])]) == 2
    assert boxes[torch.tensor([2, 0])].tensor[:, 2].tolist() == [3, 1]
    assert [b.shape for b in boxes] == [(4,)] * 3
    assert len(Boxes.cat([boxes, boxes])) == 6
    assert Boxes.cat([]).tensor.shape == Boxes(torch.zeros(0)).tensor.shape == (0, 4)
    with pytest.raises(BAD_INPUT):
        Boxes(torch.zeros(3, 5))


# ---------------------------------------------------------------- instances


def _instances():
    return Instances(
        (10, 20), gt_boxes=Boxes(torch.arange(12.0).reshape(3, 4)), names=["a", "b", "c"]
    )


def test_instances_index_all_fields():
    """Rows of all fields are selected together; an int gives length 1."""
    instances = _instances()
    assert instances[1].names == ["b"]
    assert instances[-1].names == ["c"]
    assert instances[1:].gt_boxes.tensor[:, 0].tolist() == [4, 8]
    instances.remove("names")
    picked = instances[torch.tensor([2, 0])]
    assert picked.gt_boxes.tensor[:, 0].tolist() == [8, 0]
    assert picked.image_size == (10, 20)
    with pytest.raises(IndexError):
        instances[3]


def test_instances_fields():
    """Fields are attributes, of one length; a missing one is an AttributeError."""
    instances = _instances()
    instances.scores = torch.ones(3)
    assert instances.has("scores")
    assert sorted(instances.get_fields()) == ["gt_boxes", "names", "scores"]
    assert instances.get("scores") is instances.scores
    with pytest.raises(AttributeError, match="gt_masks"):
        _ = instances.gt_masks
    with pytest.raises(BAD_INPUT):
        instances.scores = torch.ones(2)
    with pytest.raises((AssertionError, AttributeError)):
        instances.image_size = (3, 3)


def test_instances_cat_copy_and_repr():
    """cat joins fields in order; Instances can be copied, pickled, moved and printed."""
    instances = _instances()
    joined = Instances.cat([instances, instances[:1]])
    assert joined.names == ["a", "b", "c", "a"]
    assert len(joined.gt_boxes) == 4
    for other in (
        copy.deepcopy(instances),
        pickle.loads(pickle.dumps(instances)),
        instances.to("cpu"),
    ):
        assert other.names == instances.names
        assert other.image_size == (10, 20)
    assert repr(instances[:1]) == (
        "Instances(num_instances=1, image_height=10, image_width=20, "
        "fields=[gt_boxes: Boxes(tensor([[0., 1., 2., 3.]])), names: ['a']])"
    )
    with pytest.raises(BAD_INPUT):
        Instances.cat([instances, Instances((1, 1), **_instances().get_fields())])


# ---------------------------------------------------------------- image list


def test_padding_rule(golden_json):
    """The batch maximum rounded up to the divisibility; square_size > 0 replaces the maximum."""
    images = [torch.ones(3, 50, 70), torch.ones(3, 64, 33)]
    cases = [
        (0, None),
        (32, None),
        (32, {"square_size": 0}),
        (32, {"square_size": 128}),
        (0, {"size_divisiblity": 32, "square_size": 0}),  # misspelt: without effect
        (0, {"size_divisibility": 16}),
    ]
    shapes = [
        list(ImageList.from_tensors(images, div, padding_constraints=constraints).tensor.shape)
        for div, constraints in cases
    ]
    assert shapes == golden_json["image_list/shapes"]


def test_padding_is_zero_at_bottom_and_right(golden):
    """Images lie at the top left; indexing gives them without padding."""
    images = [torch.ones(3, 50, 70), torch.ones(3, 64, 33)]
    batch = ImageList.from_tensors(images, 32, pad_value=0.0)
    assert_golden(batch.tensor[:, 0, ::8, ::8], golden["image_list/pad"], 0)
    assert batch.image_sizes == [(50, 70), (64, 33)]
    torch.testing.assert_close(batch[1], images[1], rtol=0, atol=0)
    assert len(batch) == 2


@pytest.mark.lite_only
@pytest.mark.parametrize("sizes", [[(40, 70)], [(40, 70), (64, 64)]])
def test_an_image_larger_than_the_square_is_an_error(sizes):
    """Detectron2 crops an image that is larger than square_pad if it is alone; this one raises."""
    images = [torch.ones(3, h, w) for h, w in sizes]
    with pytest.raises(ValueError, match=r"40x70.*64x64.*ResizeShortestEdge\(64, 64\)"):
        ImageList.from_tensors(images, 32, padding_constraints={"square_size": 64})


# ---------------------------------------------------------------- masks


def test_polygons_to_bitmask_is_their_union(golden):
    """COCO's rasteriser, union of the polygons."""
    polygons, _ = _polygons()
    mask = polygons_to_bitmask([polygons[0][0], polygons[1][0] * 0.5], 60, 80)
    _assert_golden_bits(torch.from_numpy(mask), golden["mask/poly2bit"])
    assert not polygons_to_bitmask([], 4, 5).any()


def test_bitmasks_from_polygons(golden):
    polygons, _ = _polygons()
    masks = BitMasks.from_polygon_masks(PolygonMasks(polygons), 60, 80)
    _assert_golden_bits(masks.tensor, golden["mask/bitmask"])
    assert_golden(masks.get_bounding_boxes().tensor, golden["mask/bit_boxes"], 0)


def test_bounding_boxes_of_masks_by_hand():
    """The box of a bitmap ends behind its last pixel; an empty bitmap has zeros."""
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 2:5, 1:4] = True
    assert BitMasks(masks).get_bounding_boxes().tensor.tolist() == [[1, 2, 4, 5], [0, 0, 0, 0]]
    assert BitMasks(masks).nonempty().tolist() == [True, False]


def test_bounding_boxes_of_polygons(golden):
    polygons, _ = _polygons()
    boxes = PolygonMasks([*polygons, []]).get_bounding_boxes().tensor
    assert_golden(boxes[:5], golden["mask/poly_boxes"], 1e-5)
    assert boxes[5].tolist() == [float("inf"), float("inf"), 0, 0]


def test_mask_target_from_polygons(golden):
    """Polygons are shifted and scaled to the box, then rasterised at 28x28."""
    polygons, boxes = _polygons()
    boxes += torch.tensor([-3.0, 2.0, 4.0, -1.0])
    masks = PolygonMasks(polygons).crop_and_resize(boxes, 28)
    _assert_golden_bits(masks, golden["mask/poly_crop"])
    one = rasterize_polygons_within_box(polygons[0], boxes[0].numpy(), 14)
    _assert_golden_bits(one, golden["mask/raster"])


def test_mask_target_by_hand():
    """The left half of a box is the left half of its mask; sides count as 0.1 at least."""
    left_half = np.array([10.0, 10, 14, 10, 14, 30, 10, 30])
    mask = rasterize_polygons_within_box([left_half], np.float32([10, 10, 18, 30]), 4)
    assert mask.tolist() == [[True, True, False, False]] * 4
    flat = rasterize_polygons_within_box([left_half], np.float32([10, 10, 10, 10]), 4)
    assert flat.all()


def test_mask_target_from_bitmaps(golden):
    """RoIAlign (aligned) of the bitmap, >= 0.5."""
    polygons, boxes = _polygons()
    boxes += torch.tensor([-3.0, 2.0, 4.0, -1.0])
    masks = BitMasks.from_polygon_masks(polygons, 60, 80).crop_and_resize(boxes, 28)
    _assert_golden_bits(masks, golden["mask/bit_crop"])


def test_mask_target_from_a_bitmap_by_hand():
    """A bin that is half covered belongs to the mask."""
    masks = BitMasks(torch.tensor([[[True, False]]]))
    assert masks.crop_and_resize(torch.tensor([[0.0, 0, 2, 1]]), 1).tolist() == [[[True]]]


def test_paste_masks(golden):
    """grid_sample(align_corners=False) at pixel centres, then >= threshold, as bool."""
    r = np.random.RandomState(50).uniform(0, 1, (6, 7, 7)).astype(np.float32)
    masks = torch.from_numpy(r).repeat_interleave(4, 1).repeat_interleave(4, 2)
    boxes = random_boxes(51, 6, 70, 50, 8, 60)
    pasted = paste_masks_in_image(masks, Boxes(boxes), (50, 70), threshold=0.5)
    _assert_golden_bits(pasted, golden["mask/paste"])
    # A negative threshold asks for the values, as uint8.
    soft = paste_masks_in_image(masks[:2], Boxes(boxes[:2]), (50, 70), threshold=-1)
    assert soft.dtype == torch.uint8
    np.testing.assert_allclose(soft[:, ::3, ::3], golden["mask/paste_soft"], atol=1)


def test_paste_masks_by_hand():
    """A full mask covers the pixels whose centres lie in its box, and 0.5 is inside."""
    boxes = Boxes(torch.tensor([[1.0, 1, 4, 3]]))
    pasted = ROIMasks(torch.full((1, 4, 4), 1.0)).to_bitmasks(boxes, 5, 6)
    expected = torch.zeros(1, 5, 6, dtype=torch.bool)
    expected[0, 1:3, 1:4] = True
    torch.testing.assert_close(pasted.tensor, expected)
    assert paste_masks_in_image(torch.full((1, 4, 4), 0.5), boxes, (5, 6))[0, 2, 2]


@pytest.mark.lite_only
def test_paste_outside_of_the_image_is_empty():
    """Detectron2 raises on the CPU when a box lies outside of the image."""
    boxes = torch.tensor([[20.0, 20, 30, 30], [-9, -9, -5, -5]])
    assert not paste_masks_in_image(torch.ones(2, 4, 4), boxes, (5, 6)).any()


def test_polygon_masks_are_a_sequence():
    """Indexing keeps the polygons together; invalid ones are refused."""
    square, triangle = [0.0, 0, 4, 0, 4, 4, 0, 4], [0.0, 0, 2, 0, 0, 2]
    masks = PolygonMasks([[np.array(square)], [np.array(triangle), np.array(square)]])
    assert [len(p) for p in masks[torch.tensor([False, True])]] == [2]
    assert [len(p) for p in masks[torch.tensor([1, 0, 1])]] == [2, 1, 2]
    assert len(masks[1:]) == len(masks[0]) == 1
    assert masks.to("cpu") is masks
    assert PolygonMasks([[], [np.array(triangle)]]).nonempty().tolist() == [False, True]
    assert len(PolygonMasks.cat([masks, masks])) == 4
    for bad in ([[np.zeros(4)]], [[np.zeros(7)]], [np.zeros(8)], np.zeros((1, 8))):
        with pytest.raises(ValueError):
            PolygonMasks(bad)
    assert masks[[]].crop_and_resize(torch.zeros(0, 4), 28).shape == (0, 28, 28)
