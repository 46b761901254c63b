"""FPN, SimpleFeaturePyramid, and the contract of a backbone."""

import golden_models
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import (
    FPN,
    Backbone,
    SimpleFeaturePyramid,
)
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from omegaconf import OmegaConf
from torch import nn

BAD_INPUT = (AssertionError, ValueError, KeyError)


def _golden_backbone(name):
    config = golden_models.MODELS[name]().backbone
    return golden_models.load_seeded(instantiate(config), name).eval()


@pytest.mark.parametrize("name", ["fpn", "fpn_ln", "sfp"])
def test_features(golden, name):
    """Feature maps of a seeded model on a seeded image."""
    image = np.random.RandomState(70).standard_normal((1, 3, 128, 160)).astype(np.float32)
    with torch.no_grad():
        features = _golden_backbone(name)(torch.from_numpy(image))
    assert list(features) == ["p2", "p3", "p4", "p5", "p6"]
    for key, x in features.items():
        rows, columns = max(1, x.shape[2] // 5), max(1, x.shape[3] // 5)
        expected = torch.from_numpy(golden[f"backbone/{name}/{key}"])
        torch.testing.assert_close(x[0, ::5, ::rows, ::columns], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["fpn", "fpn_ln", "sfp"])
def test_output_shape_and_padding(golden_json, name):
    """FPN: divisibility 32 and {"square_size"}. SFP: divisibility 0 and a misspelt key."""
    backbone = _golden_backbone(name)
    shapes = {k: [s.channels, s.stride] for k, s in backbone.output_shape().items()}
    assert shapes == golden_json[f"backbone/{name}/shape"]
    padding = [backbone.size_divisibility, dict(backbone.padding_constraints)]
    assert padding == golden_json[f"backbone/{name}/pad"]


class Strided(Backbone):
    """Every ``stride``-th pixel, as features a, b, c, d; 1x1 convolutions to 4 channels."""

    def __init__(self, strides=(4, 8, 16, 32)):
        super().__init__()
        self._out_features = ["a", "b", "c", "d"]
        self._out_feature_strides = dict(zip("abcd", strides, strict=True))
        self._out_feature_channels = dict.fromkeys("abcd", 4)
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return {k: self.conv(x)[:, :, ::s, ::s] for k, s in self._out_feature_strides.items()}


def test_backbone_contract():
    """By default any size goes in, and output_shape comes from the three _out_feature* fields."""
    backbone = Strided()
    assert backbone.size_divisibility == 0
    assert backbone.padding_constraints == {}
    assert backbone.output_shape()["b"] == ShapeSpec(channels=4, stride=8)


def test_fpn_adds_the_level_above_before_its_output_convolution():
    """lateral(x) + nearest x2 of the level above, which is not yet an output; then 3x3."""
    fpn = FPN(Strided(), OmegaConf.create(["c", "d"]), 8)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, below = fpn(image), fpn.bottom_up(image)
        top = fpn.fpn_lateral5(below["d"])
        merged = fpn.fpn_lateral4(below["c"]) + top.repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(features["p4"], fpn.fpn_output4(merged))
        torch.testing.assert_close(features["p5"], fpn.fpn_output5(top))
    assert list(features) == ["p4", "p5"]


def test_p6_is_every_second_pixel_of_p5():
    """LastLevelMaxPool: kernel 1, stride 2, of p5; it adds stride 64."""
    fpn = FPN(Strided(), ["a", "b", "c", "d"], 8, top_block=LastLevelMaxPool())
    features = fpn(torch.randn(1, 3, 96, 96))
    torch.testing.assert_close(features["p6"], features["p5"][:, :, ::2, ::2])
    assert fpn.output_shape()["p6"] == ShapeSpec(channels=8, stride=64)


@pytest.mark.parametrize(("norm", "has_bias"), [("", True), ("LN", False)])
def test_fpn_keys(norm, has_bias):
    """fpn_lateral{2..5}, fpn_output{2..5}, bottom_up; no bias where there is a norm."""
    fpn = FPN(Strided(), ["a", "b", "c", "d"], 8, norm=norm)
    expected = {"bottom_up.conv.weight", "bottom_up.conv.bias"}
    for stage in range(2, 6):
        for part in (f"fpn_lateral{stage}", f"fpn_output{stage}"):
            expected |= {f"{part}.weight", f"{part}.bias" if has_bias else f"{part}.norm.bias"}
            expected |= set() if has_bias else {f"{part}.norm.weight"}
    assert set(fpn.state_dict()) == expected


def test_fpn_init_is_c2_xavier():
    """Uniform in ±sqrt(3 / fan_in), bias 0."""
    fpn = FPN(Strided(), ["a", "b"], 64)
    bound = (3 / (64 * 9)) ** 0.5
    weight = fpn.fpn_output2.weight
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.99 * bound
    assert fpn.fpn_output2.bias.abs().max() == 0


def test_fpn_checks_its_features():
    """Strides double from feature to feature, and there is at least one."""
    for backbone, features in ((Strided((4, 8, 16, 16)), "cd"), (Strided(), ""), (Strided(), "x")):
        with pytest.raises(BAD_INPUT):
            FPN(backbone, list(features), 8)


def test_sfp_levels():
    """From stride 16: ConvT-norm-GELU-ConvT, ConvT, nothing, MaxPool; widths C/4, C/2, C, C."""
    sfp = SimpleFeaturePyramid(Strided(), "c", 8, OmegaConf.create([4.0, 2.0, 1.0, 0.5]))
    kinds = [type(m) for m in sfp.simfp_2[:4]]
    assert kinds[0] is kinds[3] is nn.ConvTranspose2d
    assert kinds[2] is nn.GELU
    assert [sfp.simfp_2[4].in_channels, sfp.simfp_3[1].in_channels] == [1, 2]
    assert [sfp.simfp_4[0].in_channels, sfp.simfp_5[1].in_channels] == [4, 4]
    assert isinstance(sfp.simfp_5[0], nn.MaxPool2d)
    features = sfp(torch.zeros(1, 3, 64, 96))
    sizes = {k: tuple(x.shape[1:]) for k, x in features.items()}
    assert sizes == {"p2": (8, 16, 24), "p3": (8, 8, 12), "p4": (8, 4, 6), "p5": (8, 2, 3)}


def test_sfp_level_of_scale_one_by_hand():
    """1x1 convolution, norm, 3x3 convolution, norm; neither has a bias."""
    sfp = SimpleFeaturePyramid(Strided(), "c", 8, (1.0,))
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = sfp.net(image)["c"]
        first, second = sfp.simfp_4
        x = first.norm(F.conv2d(x, first.weight))
        x = second.norm(F.conv2d(x, second.weight, padding=1))
        torch.testing.assert_close(sfp(image)["p4"], x)


def test_sfp_refuses_other_scales():
    with pytest.raises((NotImplementedError, ValueError)):
        SimpleFeaturePyramid(Strided(), "c", 8, (3.0,))
