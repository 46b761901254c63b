"""The trunk against others' code: hiera-transformer and timm's SAM 2, shared random weights."""

import warnings

import pytest
import torch
from torch.testing import assert_close

from hiera_det.modeling.classifier import HieraClassifier, build_classifier
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.units import units_to_map
from hiera_det.modeling.variants import VARIANTS, build_hiera

OFFICIAL = {
    "hiera_t": "hiera_tiny_224",
    "hiera_s": "hiera_small_224",
    "hiera_b": "hiera_base_224",
    "hiera_bplus": "hiera_base_plus_224",
    "hiera_l": "hiera_large_224",
    "hiera_h": "hiera_huge_224",
}
SAM2 = {
    "sam2_hiera_t": "sam2_hiera_tiny",
    "sam2_hiera_s": "sam2_hiera_small",
    "sam2_hiera_bplus": "sam2_hiera_base_plus",
    "sam2_hiera_l": "sam2_hiera_large",
}
SLOW = {"hiera_l", "hiera_h"}
TINY = dict(embed_dim=8, num_heads=1, stages=(1, 2, 2, 1))


def slow(names, also=frozenset()):
    marked = SLOW | also
    return [pytest.param(n, marks=pytest.mark.slow if n in marked else ()) for n in names]


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Spreads the weights, so that an ignored one would show."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.data = p.data.double() + 0.02 * noise
    return model.double().eval()


def official_model(name: str) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hiera-transformer imports a deprecated timm path
        hiera = pytest.importorskip("hiera")
        return getattr(hiera, name)(pretrained=False)


def timm_sam2(variant: str) -> tuple[torch.nn.Module, dict]:
    """timm's trunk with random weights, and those weights under the official names."""
    timm = pytest.importorskip("timm")
    peer = randomise(timm.create_model(SAM2[variant], pretrained=False, num_classes=0))
    state = {
        k.replace("mlp.layers.0", "mlp.fc1").replace("mlp.layers.1", "mlp.fc2"): v
        for k, v in peer.state_dict().items()
    }
    return peer, state


@pytest.fixture
def no_init(monkeypatch):
    """Models whose weights are overwritten anyway, without the minute that drawing H's takes."""
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, *args, **kwargs: tensor)


# ---------------------------------------------------------------------- against other code
@pytest.mark.usefixtures("no_init")
@pytest.mark.parametrize("variant", slow(OFFICIAL))
def test_maps_and_logits_equal_official(variant):
    peer = randomise(official_model(OFFICIAL[variant]))
    ours = build_classifier(variant).double().eval()
    ours.load_state_dict(peer.state_dict())  # same names, no renaming
    peer.head.train()  # in evaluation it appends a softmax
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        logits, maps = peer(images, return_intermediates=True)
        assert_close(ours(images), logits, atol=1e-6, rtol=0)
        for got, expected in zip(Hiera.forward(ours, images), maps, strict=True):
            assert_close(got, expected.permute(0, 3, 1, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("variant", slow(["hiera_t", "hiera_bplus"], {"hiera_bplus"}))
def test_gradients_equal_official(variant):
    peer = randomise(official_model(OFFICIAL[variant])).train()
    ours = build_classifier(variant).double().train()
    ours.load_state_dict(peer.state_dict())
    for module in peer.modules():
        if type(module).__name__ == "DropPath":
            module.drop_prob = 0.0
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    for model in (peer, ours):
        model(images).square().mean().backward()
    expected = dict(peer.named_parameters())
    for name, p in ours.named_parameters():
        scale = expected[name].grad.abs().max()
        assert_close(p.grad / scale, expected[name].grad / scale, atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize(
    "variant, q_pool",
    [
        ("hiera_t", 2),
        ("hiera_t", 3),
        *(
            pytest.param(v, 2, marks=pytest.mark.slow)
            for v in ("hiera_b", "hiera_bplus", "hiera_l")
        ),
    ],
)
def test_keep_mask_equals_official_masked_encoder(variant, q_pool):
    """Visible units only: stage outputs against hiera-transformer's encoder with a mask."""
    name = OFFICIAL[variant]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hiera = pytest.importorskip("hiera")
        peer = getattr(hiera, name)(pretrained=False, q_pool=q_pool)
    peer = randomise(peer)
    ours = build_classifier(variant, q_pool=q_pool).double().eval()
    ours.load_state_dict(peer.state_dict())
    images = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    keep_mask = torch.rand(2, 49).argsort(dim=1) < 19
    with torch.no_grad():
        _, expected = peer(
            images_masked(images, keep_mask), mask=keep_mask, return_intermediates=True
        )
        outputs, grid = ours.forward_units(images, keep_mask)
    assert grid == (7, 7)
    for got, want in zip(outputs, expected, strict=True):
        side = int(got.shape[2] ** 0.5)
        want = want.reshape(2, 19, side, side, -1)  # official: (B, units, h, w, C)
        got = units_to_map(got.flatten(0, 1).unsqueeze(1), (1, 1))  # (B * 19, C, h, w)
        got = got.permute(0, 2, 3, 1).unflatten(0, (2, 19))
        assert_close(got, want, atol=1e-6, rtol=0)


def images_masked(images, keep_mask):
    """What the official MAE does in its patch embedding: masked units are black."""
    visible = keep_mask.reshape(-1, 1, 7, 7).to(images.dtype)
    return images * visible.repeat_interleave(32, 2).repeat_interleave(32, 3)


@pytest.mark.parametrize(
    "variant, size",
    [
        pytest.param("sam2_hiera_t", 896, marks=pytest.mark.slow),
        pytest.param("sam2_hiera_t", 1024, marks=pytest.mark.slow),
        pytest.param("sam2_hiera_s", 896, marks=pytest.mark.slow),
        pytest.param("sam2_hiera_bplus", 896, marks=pytest.mark.slow),
        pytest.param("sam2_hiera_l", (1024, 512), marks=pytest.mark.slow),
        ("sam2_hiera_t", (256, 320)),
        ("sam2_hiera_s", (224, 224)),
        pytest.param("sam2_hiera_bplus", (192, 480), marks=pytest.mark.slow),
    ],
)
def test_maps_equal_timm_sam2(variant, size):
    peer, state = timm_sam2(variant)
    ours = build_hiera(variant).double().eval()
    missing = ours.load_state_dict({k: v for k, v in state.items() if not k.startswith("head.")})
    assert not missing.missing_keys
    h, w = (size, size) if isinstance(size, int) else size
    images = torch.randn(1, 3, h, w, dtype=torch.float64)
    with torch.no_grad():
        expected = peer.forward_intermediates(images, intermediates_only=True)
        for got, want in zip(ours(images), expected, strict=True):
            assert_close(got, want, atol=1e-6, rtol=0)


# ------------------------------------------------------------------- numbers of the papers
PARAMETERS = {  # facts of the published models: classifiers at 224, exact
    "hiera_t": 27_910_216,
    "hiera_s": 35_008_072,
    "hiera_b": 51_524_968,
    "hiera_bplus": 69_896_616,
    "hiera_l": 213_739_912,
    "hiera_h": 672_779_752,
}
GMACS = {  # measured on the official models at 224; the paper rounds to 5, 6, 9, 13, 40, 125
    "hiera_t": 4.90,
    "hiera_s": 6.41,
    "hiera_b": 9.38,
    "hiera_bplus": 12.64,
    "hiera_l": 40.27,
    "hiera_h": 124.73,
}
TRUNK_MILLIONS = {
    "sam2_hiera_t": 26.85,
    "sam2_hiera_s": 33.95,
    "sam2_hiera_bplus": 68.68,
    "sam2_hiera_l": 212.15,
}


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameter_counts(variant):
    with torch.device("meta"):
        model = build_classifier(variant)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]


@pytest.mark.parametrize("variant", TRUNK_MILLIONS)
def test_sam2_parameter_counts(variant):
    with torch.device("meta"):
        model = build_hiera(variant)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(TRUNK_MILLIONS[variant], abs=0.005)


@pytest.mark.parametrize("variant", GMACS)
def test_macs(variant):
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = build_classifier(variant).eval()
        images = torch.zeros(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert counter.get_total_flops() / 2e9 == pytest.approx(GMACS[variant], rel=5e-3)


# --------------------------------------------------------------------------- own behaviour
@pytest.mark.parametrize("kind", ["absolute", "absolute_win"])
@pytest.mark.parametrize("size", [(224, 224), (64, 160), (100, 33), (1, 1)])
def test_any_size_gives_maps_of_the_stride(kind, size):
    model = Hiera(**TINY, pos_embed=kind, window_size=(8, 4, 4, 2), global_attn_blocks=(4,))
    maps = model(torch.randn(2, 3, *size))
    for i, (m, stride) in enumerate(zip(maps, (4, 8, 16, 32), strict=True)):
        expected = (2, 8 * 2**i, -(-size[0] // stride), -(-size[1] // stride))
        assert m.shape == expected and m.isfinite().all()


def test_batch_of_two_equals_two_of_one():
    model = Hiera(**TINY, window_size=(8, 4, 6, 3), pos_embed="absolute_win").eval()
    images = torch.randn(2, 3, 96, 128)
    for both, a, b in zip(model(images), model(images[:1]), model(images[1:]), strict=True):
        assert_close(both, torch.cat([a, b]))


@pytest.mark.parametrize("windows", [(8, 4, 4, 2), (8, 4, 6, 3), (16, 8, 8, 4), (0, 0, 0, 0)])
def test_activation_checkpointing_changes_nothing(windows):
    grads = []
    for act_checkpoint in (False, True, (True, False, True, False)):
        torch.manual_seed(0)
        model = Hiera(
            **TINY,
            window_size=windows,
            act_checkpoint=act_checkpoint,
            drop_path_rate=0.3,
            pos_embed="absolute_win",
        ).train()
        images = torch.randn(2, 3, 128, 128)
        before = images.clone()
        sum(m.square().mean() for m in model(images)).backward()
        assert_close(images, before)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        grads.append({n: p.grad for n, p in model.named_parameters()})
    assert_close(grads[0], grads[1])
    assert_close(grads[0], grads[2])


def test_drop_path_rises_linearly_and_keeps_the_mean():
    model = Hiera(**TINY, drop_path_rate=0.5)
    rates = [block.drop_path.drop_prob for block in model.blocks]
    assert_close(torch.tensor(rates), torch.linspace(0, 0.5, 6))
    drop = model.blocks[-1].drop_path.train()
    torch.manual_seed(0)
    out = drop(torch.ones(4000, 1, 1, 2))
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert (out[..., 0] == out[..., 1]).all()  # whole samples
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)


def test_masked_pixels_do_not_leak():
    model = Hiera(**TINY, pos_embed_size=(24, 24)).eval()
    images = torch.randn(1, 3, 96, 96)
    keep_mask = torch.tensor([[True, False, True, False, True, False, True, False, True]])
    a, _ = model.forward_units(images, keep_mask)
    hidden = ~keep_mask.reshape(1, 1, 3, 3).repeat_interleave(32, 2).repeat_interleave(32, 3)
    b, _ = model.forward_units(torch.where(hidden, 100.0, images), keep_mask)
    for x, y in zip(a, b, strict=True):
        assert_close(x, y, atol=0, rtol=0)


def test_bf16_autocast_is_finite():
    with torch.autocast("cpu", torch.bfloat16):
        maps = Hiera(**TINY, window_size=(8, 4, 6, 3))(torch.randn(1, 3, 128, 96))
    assert all(m.isfinite().all() for m in maps)


def test_resizing_absolute_warns_once_and_names_the_cure(caplog):
    model = Hiera(**TINY)
    model(torch.randn(1, 3, 64, 64))
    model(torch.randn(1, 3, 64, 64))
    assert len(caplog.records) == 1 and "absolute_win" in caplog.text


def test_no_weight_decay_names_exist():
    for variant in VARIANTS:
        with torch.device("meta"):
            model = build_hiera(variant)
        names = model.no_weight_decay()
        assert "pos_embed" in names and names <= set(dict(model.named_parameters()))


@pytest.mark.parametrize("make", [Hiera, HieraClassifier])
def test_initial_weights_are_distributed_as_the_official(make):
    torch.manual_seed(0)
    peer = dict(official_model("hiera_tiny_224").named_parameters())
    ours = make(**VARIANTS["hiera_t"])
    for name, p in ours.named_parameters():
        expected = peer[name].double()
        if expected.unique().numel() == 1:
            assert_close(p.data, peer[name].data, msg=name)
        else:
            n = expected.numel()
            bound = 6 * expected.std() / n**0.5  # six standard errors
            assert abs(p.double().mean() - expected.mean()) < 1.5 * bound, name
            assert abs(p.double().std() - expected.std()) < 1.5 * bound, name
    bias = ours.patch_embed.proj.bias.data  # PyTorch's: uniform within 1 / sqrt(3 * 7 * 7)
    assert bias.abs().max() <= 147**-0.5 and bias.min() < -0.05 and bias.max() > 0.05


def test_every_parameter_is_initialised_in_its_range():
    model = Hiera(**TINY, pos_embed="absolute_win")
    for name, p in model.named_parameters():
        if name == "patch_embed.proj.bias":
            assert p.abs().max() <= 147**-0.5 and p.std() > 0.02
        elif name.endswith("bias"):
            assert_close(p.data, torch.full_like(p, 0.02), msg=name)
        elif "norm" not in name:
            assert 0.015 < p.std() < 0.025, name


def test_stages_that_are_removed_leave_the_others_as_they_are():
    torch.manual_seed(0)
    model = Hiera(**TINY, window_size=(8, 4, 4, 2), drop_path_rate=0.5).eval()
    images = torch.randn(1, 3, 64, 96)
    expected = model(images)[:3]
    model.keep_stages(3)
    for got, want in zip(model(images), expected, strict=True):
        assert_close(got, want, rtol=0, atol=0)
    assert (model.depth, model.full_depth, len(model.blocks)) == (5, 6, 5)
    assert (model.strides, model.embed_dims) == ([4, 8, 16], [8, 16, 32])
    rates = [block.drop_path.drop_prob for block in model.blocks]
    assert_close(torch.tensor(rates), torch.linspace(0, 0.5, 5))


def test_blocks_know_their_stage_and_lag_one_block_behind_in_windows():
    model = Hiera(**TINY, window_size=(8, 8, 12, 7))
    assert [block.stage for block in model.blocks] == [0, 1, 1, 2, 2, 3]
    assert [block.window for block in model.blocks] == [1, 1, 2, 2, 6, 6]


@pytest.mark.parametrize(
    "kwargs, text",
    [
        (dict(window_size=(8, 4, 14)), "one entry per stage"),
        (dict(window_size=(8, 4, 7, 7)), "multiple of the mask unit's side"),
        (dict(global_attn_blocks=(12, 16, 20)), "12, 16, 20.*blocks 4 to 5 may"),
        (dict(global_attn_blocks=(0,)), "blocks 4 to 5 may"),
        (dict(global_attn_blocks=(4, 3)), "the first of stage 3 may not"),
        (dict(global_attn_blocks=(-1,)), "blocks 4 to 5 may"),
        (dict(drop_path_rate=1.0), r"drop_path_rate=1.0 must be in \[0, 1\)"),
        (dict(drop_path_rate=-0.1), "drop_path_rate=-0.1"),
        (dict(drop_path_rate=float("nan")), "drop_path_rate=nan"),
        (dict(num_heads=3), "num_heads=3 does not divide the 8 channels"),
        (dict(num_heads=0), "num_heads=0 does not divide"),
        (dict(window_size=(8, 4, -2, 7)), "multiple of the mask unit's side"),
        (dict(pos_embed="sincos"), "sincos"),
        (dict(q_pool=4), "q_pool=4"),
        (dict(act_checkpoint=[True]), "one entry per stage"),
    ],
)
def test_impossible_arguments_are_named(kwargs, text):
    with pytest.raises(ValueError, match=text):
        Hiera(**(TINY | kwargs))


def test_keep_mask_with_windows_is_refused():
    model = Hiera(**TINY, window_size=(8, 4, 6, 3))
    with pytest.raises(ValueError, match="block 4 attends in windows of 3x3"):
        model.forward_units(torch.zeros(1, 3, 224, 224), torch.ones(1, 49, dtype=torch.bool))


def test_import_is_torch_only_and_silent():
    import subprocess
    import sys

    code = (
        "import sys, hiera_det.modeling.hiera, hiera_det.modeling.variants; "
        "print([m for m in ('detectron2', 'fvcore', 'timm', 'cv2') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert (out.stdout.strip(), out.stderr) == ("[]", "")
