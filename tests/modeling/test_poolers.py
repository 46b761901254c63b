"""RoI pooling in half precision keeps the boxes where they are."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch.testing import assert_close

from hiera_det.modeling.poolers import Float32ROIPooler

OPTIONS = dict(output_size=7, scales=(1 / 4, 1 / 8), sampling_ratio=0, pooler_type="ROIAlignV2")


def ramps(dtype: torch.dtype) -> list[torch.Tensor]:
    """Two levels of a 1024 px image whose values are the column in pixels, in steps that bfloat16
    has: what is pooled tells where."""
    columns = [(torch.arange(1024 // s) * s).to(dtype) for s in (4, 8)]
    return [c.expand(1, 1, len(c), len(c)).contiguous() for c in columns]


def boxes() -> list[Boxes]:
    return [Boxes(torch.tensor([[961.3, 500.2, 1001.7, 540.9], [301.7, 10.3, 901.3, 700.6]]))]


def test_float32_is_pooled_to_the_bit_as_by_detectron2():
    features = [torch.randn(2, 5, side, side) for side in (64, 32)]
    where = [Boxes(torch.tensor([[3.3, 7.1, 130.9, 99.7]])), Boxes(torch.zeros(0, 4))]
    expected = ROIPooler(**OPTIONS)(features, where)
    assert_close(Float32ROIPooler(**OPTIONS)(features, where), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_pools_float32_boxes(dtype):
    features = ramps(dtype)
    got = Float32ROIPooler(**OPTIONS)(features, boxes())
    expected = ROIPooler(**OPTIONS)([x.float() for x in features], boxes())
    assert got.dtype == dtype
    assert_close(got, expected.to(dtype), rtol=0, atol=0)


def test_bfloat16_moves_boxes_without_it():
    """What the class is for; if Detectron2 mends it, the class can go."""
    features = ramps(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        moved = ROIPooler(**OPTIONS)(features, boxes()).float()
        kept = Float32ROIPooler(**OPTIONS)(features, boxes()).float()
    assert (moved - kept).abs().max() > 1.0  # pixels


def test_gradients_reach_half_precision_features():
    features = [x.requires_grad_() for x in ramps(torch.bfloat16)]
    Float32ROIPooler(**OPTIONS)(features, boxes()).float().sum().backward()
    assert all(x.grad.dtype == torch.bfloat16 and x.grad.any() for x in features)


def test_the_configs_pool_with_it():
    from detectron2.config import instantiate

    from hiera_det.config import load_config

    for name in ("mask_rcnn_hiera_t", "cascade_mask_rcnn_hiera_t"):
        with torch.device("meta"):
            heads = instantiate(load_config(f"COCO/{name}").model.roi_heads)
        assert isinstance(heads.box_pooler, Float32ROIPooler)
        assert isinstance(heads.mask_pooler, Float32ROIPooler)
