"""Layers: norms, convolutions with a norm, small functions."""

import numpy as np
import pytest
import torch
from detectron2.layers import (
    Conv2d,
    FrozenBatchNorm2d,
    ROIAlign,
    ShapeSpec,
    batched_nms,
    cat,
    cross_entropy,
    get_norm,
    move_device_like,
    nonzero_tuple,
)
from detectron2.layers.batch_norm import LayerNorm
from torch import nn


def _channel_norm():
    norm = get_norm("LN", 8)
    weight = np.random.RandomState(61).uniform(0.5, 1.5, 8)
    bias = np.random.RandomState(62).standard_normal(8)
    norm.weight.data = torch.from_numpy(weight.astype(np.float32))
    norm.bias.data = torch.from_numpy(bias.astype(np.float32))
    return norm


@pytest.mark.parametrize(
    ("name", "scale", "tol"), [("layers/ln", 1, 1e-5), ("layers/ln_small", 1e-3, 1e-4)]
)
def test_ln_normalises_channels_with_eps_1e_6(golden, name, scale, tol):
    """Norm "LN" is over dim 1 at each position, with the biased variance and eps 1e-6."""
    x = np.random.RandomState(60).standard_normal((2, 8, 5, 6)).astype(np.float32) * 3 + 1
    out = _channel_norm()(torch.from_numpy(x) * scale)
    torch.testing.assert_close(out, torch.from_numpy(golden[name]), rtol=tol, atol=tol)


def test_ln_equals_torch_layer_norm_and_its_gradient():
    """Norm "LN" is torch's LayerNorm over the channels of the map."""
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = LayerNorm(8).double(), nn.LayerNorm(8, eps=1e-6).double()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    out_a = ours(a)
    out_b = theirs(b.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # through (N, H, W, C)
    torch.testing.assert_close(out_a, out_b, rtol=0, atol=1e-12)
    out_a.pow(3).sum().backward()
    out_b.pow(3).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-10)


def test_ln_is_not_a_torch_layer_norm(golden_json):
    """Norm "LN" is no subclass of nn.LayerNorm, so the optimizer decays its weights."""
    assert isinstance(get_norm("LN", 8), nn.LayerNorm) is golden_json["layers/ln_is_nn_layernorm"]
    assert golden_json["layers/ln_is_nn_layernorm"] is False


def test_get_norm_by_name(golden_json):
    """BN, SyncBN, FrozenBN, GN, LN name the layer; "" is none; a callable is called."""
    for name, expected in golden_json["layers/norms"].items():
        assert type(get_norm(name, 32)).__name__ == expected
    assert get_norm("GN", 64).num_groups == 32
    assert get_norm("", 8) is None
    assert get_norm(None, 8) is None
    assert isinstance(get_norm(nn.InstanceNorm2d, 8), nn.InstanceNorm2d)


@pytest.mark.lite_only
def test_get_norm_refuses_what_it_has_not_got():
    with pytest.raises(NotImplementedError, match="naiveSyncBN.*install Detectron2"):
        get_norm("naiveSyncBN", 8)
    with pytest.raises(ValueError, match="'XN'.*use one of"):
        get_norm("XN", 8)


def test_conv_holds_its_norm(golden_json):
    """Conv2d(norm=, activation=) applies them in this order; the norm is a child of the conv."""
    conv = Conv2d(8, 4, 3, padding=1, bias=False, norm=get_norm("LN", 4), activation=nn.ReLU())
    assert list(conv.state_dict()) == golden_json["layers/conv_keys"]
    x = torch.randn(1, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = conv.norm(nn.functional.conv2d(x, conv.weight, padding=1)).clamp(min=0)
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=0)


def test_frozen_batch_norm_has_only_buffers(golden_json):
    """FrozenBN keeps weight, bias, running_mean and running_var as buffers, and is constant."""
    norm = FrozenBatchNorm2d(4)
    shapes = {k: list(v.shape) for k, v in norm.state_dict().items()}
    assert shapes == golden_json["layers/frozen_bn_keys"]
    assert not list(norm.parameters())


@pytest.mark.parametrize("needs_grad", [False, True])
def test_frozen_batch_norm_equals_batch_norm_in_eval(needs_grad):
    """FrozenBN computes what BatchNorm2d computes in evaluation mode."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    x = torch.randn(2, 4, 5, 5)
    expected = norm(x).detach()
    frozen = FrozenBatchNorm2d(4)
    frozen.load_state_dict(norm.state_dict(), strict=False)
    out = frozen(x.requires_grad_(needs_grad))
    torch.testing.assert_close(out.detach(), expected, rtol=1e-5, atol=1e-6)


def test_roi_align_samples_at_pixel_centres():
    """ROIAlign(aligned=True): pixel (i, j) has its centre at (j + .5, i + .5), as in box space."""
    image = torch.arange(16.0).reshape(1, 1, 4, 4)  # value 4 * row + column
    whole = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])  # batch index, x0, y0, x1, y1
    pooled = ROIAlign((4, 4), 1.0, sampling_ratio=1, aligned=True)(image, whole)
    torch.testing.assert_close(pooled, image, rtol=0, atol=0)


def test_batched_nms_keeps_groups_apart():
    """batched_nms drops only within a group, and returns indices by falling score."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]])
    scores, groups = torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 0, 1])
    assert batched_nms(boxes, scores, groups, 0.5).tolist() == [1, 2]


def test_cross_entropy_of_nothing_is_zero():
    """The mean over no targets is 0 with a gradient, not nan."""
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.shape == (0, 3)


def test_small_functions():
    """cat passes a single tensor through; nonzero_tuple treats a scalar as 1-D."""
    x = torch.tensor([[0, 3], [4, 0]])
    assert cat([x]) is x
    assert cat([x, x], dim=1).shape == (2, 4)
    assert [i.tolist() for i in nonzero_tuple(x)] == [[0, 1], [1, 0]]
    assert [i.tolist() for i in nonzero_tuple(torch.tensor(5))] == [[0]]
    assert move_device_like(x, torch.zeros(1)).device.type == "cpu"


def test_shape_spec_fields():
    """ShapeSpec has channels, height, width, stride in this order, None by default."""
    assert ShapeSpec(3, stride=4) == ShapeSpec(channels=3, height=None, width=None, stride=4)


@pytest.mark.lite_only
def test_absent_name_says_where_it_is():
    with pytest.raises(ImportError, match="ASPP is not in detectron2_lite; install Detectron2"):
        from detectron2.layers import ASPP  # noqa: F401
