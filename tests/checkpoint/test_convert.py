"""Conversion against the other libraries' own models: random weights, float64, all stages."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hiera_det.checkpoint.convert import check_trunk, convert_state
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.positions import table_size
from hiera_det.modeling.units import units_to_map
from hiera_det.modeling.variants import VARIANTS, build_hiera

EXACT = dict(rtol=0, atol=1e-6)
SMALL = dict(embed_dim=16, num_heads=1, stages=(1, 2, 4, 1))
SAM2_WINDOWS = dict(window_size=(8, 4, 14, 7), global_attn_blocks=(5,))
HF_SMALL = dict(embed_dim=16, depths=[1, 2, 4, 1], num_heads=[1, 2, 4, 8])


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Spreads every parameter, so that one that is ignored or mixed up would show."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.data = p.data.double() + 0.05 * noise
    return model.double().eval()


def images(batch: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64)


def official(name: str, **kwargs) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hiera-transformer imports a deprecated timm path
        pytest.importorskip("hiera")
        import hiera.hiera_mae

        cls = hiera.hiera_mae.MaskedAutoencoderHiera if name == "mae" else hiera.Hiera
        return cls(**(SMALL | kwargs))


def timm_model(name: str, **kwargs) -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(name, pretrained=False, **(SMALL | kwargs))


def channels_first(maps: list[Tensor]) -> list[Tensor]:
    return [x.permute(0, 3, 1, 2) for x in maps]


@torch.no_grad()
def official_case():
    peer = randomise(official("cls", input_size=(64, 64), num_classes=5))
    x = images(2, 64)
    return peer.state_dict(), x, channels_first(peer(x, return_intermediates=True)[1]), {}


@torch.no_grad()
def timm_case(name: str, size: int, windows: dict, **kwargs):
    peer = randomise(timm_model(name, **kwargs))
    x = images(1, size)
    return peer.state_dict(), x, peer.forward_intermediates(x, intermediates_only=True), windows


@torch.no_grad()
def hf_case(cls: str, **kwargs):
    transformers = pytest.importorskip("transformers")
    config = transformers.HieraConfig(image_size=[64, 64], **HF_SMALL, **kwargs)
    peer = randomise(getattr(transformers, cls)(config))
    x = images(2, 64)
    out = peer(x, output_hidden_states=True)
    return peer.state_dict(), x, channels_first(out.reshaped_hidden_states[1:]), {}


@torch.no_grad()
def hf_sam2_case(prefix: str):
    transformers = pytest.importorskip("transformers")
    config = transformers.Sam2HieraDetConfig(
        hidden_size=16,
        blocks_per_stage=[1, 2, 4, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        global_attention_blocks=[5],
        image_size=[96, 96],
    )
    peer = randomise(transformers.Sam2HieraDetModel(config))
    x = images(1, 96)
    state = {prefix + key: value for key, value in peer.state_dict().items()}
    if prefix == "vision_encoder.backbone.":
        state |= {"vision_encoder.neck.convs.0.weight": x, "mask_decoder.iou_token.weight": x}
    return state, x, channels_first(peer(x).intermediate_hidden_states), SAM2_WINDOWS


def sam2_pt_case():
    """The layout of SAM 2's own .pt files, from timm's trunk under SAM 2's names."""
    state, *rest = timm_case("sam2_hiera_tiny", 96, SAM2_WINDOWS, global_att_blocks=(5,))
    names = {"mlp.fc1": "mlp.layers.0", "mlp.fc2": "mlp.layers.1"}
    out = {}
    for key, value in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        if not key.startswith("head."):
            out["image_encoder.trunk." + key] = value
    out["image_encoder.neck.convs.0.conv.weight"] = torch.zeros(1)
    out["sam_mask_decoder.iou_token.weight"] = out["maskmem_tpos_enc"] = torch.zeros(1)
    return out, *rest


CASES = {
    "official ImageNet": official_case,
    "timm": lambda: timm_case("hiera_tiny_224", 64, {}, img_size=(64, 64)),
    # Its background is as large as the grid: timm interpolates by another cubic kernel.
    "timm abswin": lambda: timm_case(
        "hiera_base_abswin_256", 64, {}, img_size=(64, 64), global_pos_size=(16, 16)
    ),
    "timm SAM 2": lambda: timm_case("sam2_hiera_tiny", 96, SAM2_WINDOWS, global_att_blocks=(5,)),
    "SAM 2": sam2_pt_case,
    "Hugging Face Hiera": lambda: hf_case("HieraModel"),
    "Hugging Face Hiera, classes": lambda: hf_case("HieraForImageClassification", num_labels=5),
    "Hugging Face SAM 2": lambda: hf_sam2_case(""),
    "Hugging Face SAM 2, vision": lambda: hf_sam2_case("backbone."),
    "Hugging Face SAM 2, full": lambda: hf_sam2_case("vision_encoder.backbone."),
}
HEADS = {
    "official ImageNet": {"head": 4},
    "timm": {"head": 4},
    "timm abswin": {"head": 4},
    "timm SAM 2": {"head": 2},
    "SAM 2": {"neck": 1, "prompts and memory": 2},
    "Hugging Face Hiera": {"head": 2},
    "Hugging Face Hiera, classes": {"head": 4},
    "Hugging Face SAM 2": {},
    "Hugging Face SAM 2, vision": {},
    "Hugging Face SAM 2, full": {"neck": 1, "prompts and memory": 1},
}


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_converted_weights_give_the_features_of_the_library(name):
    state, x, expected, windows = CASES[name]()
    converted = convert_state(state)
    assert converted.source.name == name.split(",")[0]
    assert {group: len(keys) for group, (_, keys) in converted.left_out.items()} == HEADS[name]
    trunk = (
        Hiera(
            **SMALL,
            pos_embed=converted.pos_embed,
            pos_embed_size=table_size(converted.state),
            **windows,
        )
        .double()
        .eval()
    )
    trunk.load_state_dict(converted.state, strict=True)
    for ours, theirs in zip(trunk(x), expected, strict=True):
        assert_close(ours, theirs, **EXACT)


# ---------------------------------------------------------------------------- MAE, visible units
def unit_maps(x: Tensor) -> Tensor:
    """(B, K, n, C) to one map per unit, (B * K, C, h, w)."""
    return units_to_map(x.flatten(0, 1).unsqueeze(1), (1, 1))


def keep_mask(batch: int, units: int) -> Tensor:
    order = torch.rand(batch, units, generator=torch.Generator().manual_seed(2)).argsort(dim=1)
    return order < int(units * 0.4)


def mae_trunk(state: dict, **kwargs) -> tuple[Hiera, dict]:
    converted = convert_state(state)
    trunk = Hiera(**kwargs, q_pool=2, pos_embed_size=table_size(converted.state)).double().eval()
    trunk.load_state_dict(converted.state, strict=True)
    return trunk, {group: len(keys) for group, (_, keys) in converted.left_out.items()}


@torch.no_grad()
def check_official_mae(peer: nn.Module, kwargs: dict, size: int, decoder: int) -> None:
    trunk, left_out = mae_trunk(peer.state_dict(), **kwargs)
    assert left_out == {"encoder_norm": 2, "fusion": 4, "decoder": decoder}
    x = images(2, size)
    mask = keep_mask(2, (size // 32) ** 2)
    stages, _ = trunk.forward_units(x, mask)
    # The published encoder ends in a sum of stages 1, 2 and 4; its fusion layers are the peer's.
    first, second, _, last = (unit_maps(s) for s in stages)
    heads = peer.multi_scale_fusion_heads
    fused = (heads[0](first) + heads[1](second) + last).permute(0, 2, 3, 1)
    expected, _ = peer.forward_encoder(x, mask_ratio=0.6, mask=mask)  # (B, K, 2, 2, C)
    assert_close(peer.encoder_norm(fused), expected.flatten(0, 1), **EXACT)


def test_mae_encoder_matches_official_on_visible_units():
    peer = official(
        "mae",
        input_size=(96, 96),
        q_pool=2,
        decoder_depth=1,
        decoder_embed_dim=32,
        decoder_num_heads=2,
    )
    check_official_mae(randomise(peer), SMALL, 96, decoder=20)


@pytest.mark.slow
def test_mae_encoder_matches_official_tiny():
    official("mae", input_size=(96, 96), q_pool=2)  # skips where the package is absent
    from hiera.hiera_mae import mae_hiera_tiny_224

    peer = randomise(mae_hiera_tiny_224(pretrained=False))
    check_official_mae(peer, VARIANTS["hiera_t"], 224, decoder=104)
    assert convert_state(peer.state_dict()).variant == "hiera_t"


@torch.no_grad()
def test_mae_encoder_matches_hugging_face_on_visible_units():
    transformers = pytest.importorskip("transformers")
    config = transformers.HieraConfig(
        image_size=[96, 96],
        num_query_pool=2,
        decoder_depth=1,
        decoder_hidden_size=32,
        decoder_num_heads=2,
        **HF_SMALL,
    )
    peer = randomise(transformers.HieraForPreTraining(config))
    trunk, left_out = mae_trunk(peer.state_dict(), **SMALL)
    assert left_out == {"encoder_norm": 2, "fusion": 4, "decoder": 20}
    x = images(2, 96)
    noise = torch.rand(2, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    out = peer.hiera(x, noise=noise, output_hidden_states=True)
    stages, _ = trunk.forward_units(x, out.bool_masked_pos)  # True is visible there too
    for ours, theirs in zip(stages, out.reshaped_hidden_states[1:], strict=True):
        assert_close(unit_maps(ours), theirs.flatten(0, 1).permute(0, 3, 1, 2), **EXACT)


# --------------------------------------------------------------------------------- recognition
def meta_state(variant: str, prefix: str = "", **kwargs) -> dict[str, Tensor]:
    with torch.device("meta"):
        state = build_hiera(variant, **kwargs).state_dict()
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_are_recognised_by_shapes(variant):
    if variant.startswith("sam2_"):
        state = meta_state(variant, "image_encoder.trunk.")
        state = {
            k.replace("fc1", "layers.0").replace("fc2", "layers.1"): v for k, v in state.items()
        }
    else:
        state = meta_state(variant)
    converted = convert_state(state)
    assert converted.variant == variant
    check_trunk(converted)


@pytest.mark.parametrize("kind", ["absolute", "absolute_win"])
@pytest.mark.parametrize("prefix", ["", "trunk.", "backbone.net.trunk.", "backbone.trunk."])
def test_our_own_files(prefix, kind):
    state = meta_state("hiera_t", prefix, pos_embed=kind)
    if prefix.startswith("backbone."):
        state["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(1)
    converted = convert_state(state)
    assert (converted.variant, converted.pos_embed) == ("hiera_t", kind)
    assert converted.state.keys() == meta_state("hiera_t", pos_embed=kind).keys()
    check_trunk(converted)


def test_the_user_names_what_shapes_leave_open():
    state = meta_state("sam2_hiera_l")
    assert convert_state(state).variant == "hiera_l"
    assert convert_state(state, variant="sam2_hiera_l").variant == "sam2_hiera_l"
    with pytest.raises(ValueError, match="embed_dim 144 and 48 blocks are hiera_l, sam2_hiera_l"):
        convert_state(state, variant="hiera_b")


# -------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("layer1.0.conv1.weight", "a ResNet"),
        ("backbone.bottom_up.res2.0.conv1.weight", "a ResNet"),
        ("layers.0.blocks.0.attn.relative_position_bias_table", "a Swin"),
        ("stages.0.0.dwconv.weight", "a ConvNeXt"),
        ("blocks.0.attn.pool_q.weight", "an MViT"),
        ("pos_embed_spatial", "a video Hiera"),
        ("cls_token", "a plain vision transformer"),
        ("something.else", "no Hiera that is known here: 1 tensors, something.else"),
    ],
)
def test_other_networks_are_named(key, name):
    with pytest.raises(ValueError, match=name):
        convert_state({key: torch.zeros(1)})


def test_a_real_resnet_is_named():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        state = models.resnet18().state_dict()
    with pytest.raises(ValueError, match="a ResNet"):
        convert_state(state)


def test_a_renamed_key_is_named_with_its_neighbour():
    state = meta_state("hiera_t")
    state["blocks.3.attn.qvk.weight"] = state.pop("blocks.3.attn.qkv.weight")
    with pytest.raises(ValueError, match=r"3\.attn\.qvk\.weight \(like blocks\.3\.attn\.qkv"):
        convert_state(state)
    converted = convert_state(state, ignore=["*.qvk.*"])
    assert converted.left_out["unknown"][1] == ["blocks.3.attn.qvk.weight"]
    with pytest.raises(ValueError, match=r"blocks\.3\.attn\.qkv\.weight \(1152, 192\) is missing"):
        check_trunk(converted)


def test_under_a_detectors_trunk_nothing_is_left_out_quietly():
    state = meta_state("hiera_t", "backbone.bottom_up.trunk.")
    state["backbone.bottom_up.trunk.fpn_lateral.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match="trunk.fpn_lateral.weight"):
        convert_state(state)


def test_missing_and_misshapen_tensors_are_listed():
    state = meta_state("hiera_t")
    del state["blocks.5.norm1.bias"]
    state["blocks.0.mlp.fc1.weight"] = torch.empty(380, 96, device="meta")
    with pytest.raises(ValueError, match="2 tensors do not fit hiera_t") as error:
        check_trunk(convert_state(state))
    assert "blocks.5.norm1.bias (384,) is missing" in str(error.value)
    assert "blocks.0.mlp.fc1.weight is (380, 96), not (384, 96)" in str(error.value)


def test_a_size_without_a_name_is_no_file_to_hand_on():
    converted = convert_state(Hiera(**SMALL).state_dict())
    assert converted.size == "embed_dim 16, 8 blocks"
    with pytest.raises(ValueError, match=r"hiera_t \(96, 12\)"):
        check_trunk(converted)


def test_timm_abswin_without_linear_skips_is_refused():
    state = timm_model("hiera_small_abswin_256", img_size=(64, 64)).state_dict()
    with pytest.raises(ValueError, match="the skip connection has no linear layer"):
        convert_state(state)
