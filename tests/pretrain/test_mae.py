"""The autoencoder against `hiera-transformer`'s, and what must hold for any."""

import warnings

import pytest
import torch
from timm.layers import build_sincos2d_pos_embed
from torch import nn
from torch.testing import assert_close

from pretrain.mae import MaskedAutoencoderHiera, build_mae, keep_patches, reconstruction_loss
from pretrain.masking import random_keep_mask
from pretrain.targets import pixel_labels

SLOW = pytest.mark.slow
OFFICIAL = [
    ("hiera_t", "mae_hiera_tiny_224"),
    pytest.param("hiera_b", "mae_hiera_base_224", marks=SLOW),
    pytest.param("hiera_bplus", "mae_hiera_base_plus_224", marks=SLOW),
]
TINY = dict(
    embed_dim=16,
    stages=(1, 1, 1, 1),
    input_size=(96, 96),
    decoder_embed_dim=32,
    decoder_depth=1,
    decoder_num_heads=2,
)


def official(name: str) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports of timm are deprecated
        from hiera import hiera_mae
    return getattr(hiera_mae, name)()


def tiny(**kwargs) -> MaskedAutoencoderHiera:
    torch.manual_seed(0)
    return MaskedAutoencoderHiera(**(TINY | kwargs))


@pytest.mark.parametrize("variant, name", OFFICIAL)
def test_mae_equals_official(variant, name):
    torch.manual_seed(0)
    theirs = official(name).double().eval()  # eval: no drop path
    ours = build_mae(variant).double()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    loss, predictions, labels, keep_mask = theirs(images, mask_ratio=0.6)
    output = ours(images, keep_mask)

    hidden = ~keep_patches(keep_mask, (7, 7))
    assert_close(output.loss, loss, atol=1e-9, rtol=0)
    assert_close(output.predictions[hidden], predictions, atol=1e-9, rtol=0)
    assert_close(output.labels[hidden], labels, atol=1e-9, rtol=0)
    assert_close(output.keep_mask, keep_mask)

    loss.backward()
    output.loss.backward()
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    assert_close(gradients, {n: p.grad for n, p in theirs.named_parameters()}, atol=1e-9, rtol=0)


def test_mae_state_loads_in_official():
    ours = build_mae("hiera_t")
    theirs = official("mae_hiera_tiny_224")
    theirs.load_state_dict(ours.state_dict())  # strict
    assert len(ours.state_dict()) == 263


def test_mae_initialisation_follows_official():
    torch.manual_seed(0)
    ours, theirs = build_mae("hiera_t").state_dict(), official("mae_hiera_tiny_224").state_dict()
    for name, tensor in theirs.items():
        if tensor.numel() < 1000:
            continue  # too few numbers for a statistic
        assert_close(ours[name].std(), tensor.std(), rtol=0.1, atol=1e-3, msg=name)
        assert_close(ours[name].mean(), tensor.mean(), rtol=0, atol=0.01, msg=name)


def test_encoder_does_not_see_masked_pixels():
    model = tiny()
    images = torch.randn(2, 3, 96, 96)
    keep_mask = random_keep_mask(2, 9, 0.6)
    hidden = (~keep_mask).reshape(2, 1, 3, 3).repeat_interleave(32, 2).repeat_interleave(32, 3)
    changed = torch.where(hidden, torch.randn_like(images), images)
    assert not torch.equal(changed, images)
    before, after = (model.forward_encoder(x, keep_mask) for x in (images, changed))
    assert_close(before, after, atol=0, rtol=0)


def test_loss_ignores_visible_patches():
    model = tiny()
    keep_mask = random_keep_mask(2, 9, 0.6)
    output = model(torch.randn(2, 3, 96, 96), keep_mask)
    keep = keep_patches(keep_mask, (3, 3))
    others = torch.where(keep.unsqueeze(2), torch.randn_like(output.labels), output.labels)
    assert_close(reconstruction_loss(output.predictions, others, keep), output.loss)
    others = torch.where(keep.unsqueeze(2), output.labels, torch.randn_like(output.labels))
    assert reconstruction_loss(output.predictions, others, keep) != output.loss


def test_visible_pixels_do_not_change_the_labels_of_hidden_patches():
    images = torch.rand(2, 3, 96, 96, dtype=torch.float64)
    keep_mask = random_keep_mask(2, 9, 0.6)
    keep = keep_patches(keep_mask, (3, 3))
    visible = keep_mask.reshape(2, 1, 3, 3).repeat_interleave(32, 2).repeat_interleave(32, 3)
    changed = torch.where(visible, torch.rand_like(images), images)
    before, after = pixel_labels(images), pixel_labels(changed)
    assert_close(after[~keep], before[~keep], rtol=0, atol=0)
    assert not torch.isclose(after[keep], before[keep]).all()


def test_decoder_puts_predictions_where_their_unit_is():
    """A decoder without mixing predicts for a patch what its own token says."""
    model = tiny(decoder_depth=0)
    keep_mask = torch.ones(1, 6, dtype=torch.bool)
    tokens = torch.randn(1, 6, 4, model.embed_dims[-1])
    predictions = model.forward_decoder(tokens, keep_mask, (2, 3))
    tokens[0, 4, 1] += 1  # the unit in row 1, column 1; its patch in row 0, column 1
    changed = (model.forward_decoder(tokens, keep_mask, (2, 3)) != predictions).any(dim=2)
    assert changed.nonzero().tolist() == [[0, 2 * 6 + 3]]


@pytest.mark.parametrize("pos_embed", ["absolute", "absolute_win"])
@pytest.mark.parametrize("target", ["pixels", "hog"])
@pytest.mark.parametrize("size", [(96, 96), (64, 160)])
def test_every_parameter_gets_a_gradient(pos_embed, target, size):
    model = tiny(pos_embed=pos_embed, target=target)
    model(torch.randn(2, 3, *size)).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_batch_of_two_is_two_batches_of_one():
    model = tiny().double()
    images = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    keep_mask = random_keep_mask(2, 9, 0.6)
    both = model(images, keep_mask)
    alone = [model(images[k : k + 1], keep_mask[k : k + 1]) for k in range(2)]
    assert_close(both.predictions, torch.cat([x.predictions for x in alone]))
    assert_close(both.loss, sum(x.loss for x in alone) / 2)


def test_uint8_images_are_normalised():
    model = tiny()
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    keep_mask = random_keep_mask(2, 9, 0.6)
    mean = torch.tensor([123.675, 116.28, 103.53]).reshape(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).reshape(3, 1, 1)
    by_hand = model((images - mean) / std, keep_mask)
    assert_close(model(images, keep_mask).predictions, by_hand.predictions)
    assert "pixel_mean" not in model.state_dict()


def test_flat_image_has_a_finite_loss():
    output = tiny()(torch.zeros(1, 3, 96, 96))
    assert output.loss.isfinite() and not output.labels.any()


def test_autocast_is_finite_and_near_float32():
    model = tiny()
    images, keep_mask = torch.randn(2, 3, 96, 96), random_keep_mask(2, 9, 0.6)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images, keep_mask)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert_close(output.loss, model(images, keep_mask).loss, rtol=0.02, atol=0)


def test_no_weight_decay_names_every_table():
    model = tiny(pos_embed="absolute_win")
    assert model.no_weight_decay() == {
        "pos_embed", "pos_embed_window", "decoder_pos_embed", "mask_token"
    }  # fmt: skip


@pytest.mark.parametrize(
    "kwargs, match",
    [
        (dict(target="colour"), "pixels, hog"),
        (dict(mask_ratio=0), "mask_ratio=0"),
        (dict(mask_ratio=1), "mask_ratio=1"),
        (dict(mask_ratio=-1), "mask_ratio=-1"),
        (dict(input_size=(100, 96)), "nearest: 96x96"),
        (dict(input_size=(64, 96)), "square.*absolute_win"),
        (dict(in_chans=1), "pixel_mean"),
    ],
)
def test_impossible_values_raise(kwargs, match):
    with pytest.raises(ValueError, match=match):
        tiny(**kwargs)


def test_images_that_are_no_multiple_of_a_unit_raise():
    with pytest.raises(ValueError, match="250x96 px.*nearest: 256x96"):
        tiny()(torch.randn(1, 3, 250, 96))


def test_unknown_variant_raises():
    with pytest.raises(ValueError, match="hiera_bplus"):
        build_mae("hiera_xl")


def test_sincos_decoder_table_equals_timm():
    model = tiny(input_size=(96, 64), pos_embed="absolute_win", decoder_pos_init="sincos")
    table = build_sincos2d_pos_embed((6, 4), dim=32, interleave_sin_cos=False)  # (24, 32)
    assert_close(model.decoder_pos_embed, nn.Parameter(table.unsqueeze(0)))


def test_decoder_pos_init_errors():
    with pytest.raises(ValueError, match="decoder_pos_init='sin' is none of normal, sincos"):
        tiny(decoder_pos_init="sin")
    with pytest.raises(ValueError, match="multiples of 4, not 18"):
        tiny(decoder_pos_init="sincos", decoder_embed_dim=18)
