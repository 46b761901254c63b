"""Conversion of birder's Hiera: against its own models, and by the names of its tensors."""

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hiera_det.checkpoint.convert import check_trunk, convert_state
from hiera_det.checkpoint.files import read_checkpoint
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.positions import table_size
from hiera_det.modeling.units import units_to_map
from hiera_det.modeling.variants import VARIANTS, build_hiera
from pretrain.mae import MaskedAutoencoderHiera
from pretrain.weights import has_decoder, load_mae_checkpoint

EXACT = dict(rtol=0, atol=1e-6)
SMALL = dict(embed_dim=16, num_heads=1, stages=(1, 2, 4, 1))
CONFIG = dict(embed_dim=16, num_heads=1, depths=[1, 2, 4, 1], drop_path_rate=0.0)
SAM2_WINDOWS = dict(window_size=(8, 4, 14, 7), global_attn_blocks=(5,))
HIERA, HIERADET, MAE = "birder Hiera", "birder HieraDet", "birder MAE"


def randomise(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.data = p.data.double() + 0.05 * noise
    return model.double().eval()


def images(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)


def birder_hiera(abs_win: bool, size: int, **kwargs) -> nn.Module:
    pytest.importorskip("birder", reason="birder, 0.4 GB with what it needs, is not installed")
    from birder.net.hiera import Hiera as BirderHiera

    config = CONFIG | {"abs_win_pos_embed": abs_win} | kwargs
    return randomise(BirderHiera(3, 5, config=config, size=(size, size)))


def birder_hieradet(windows: list[int], global_blocks: list[int], size: int) -> nn.Module:
    pytest.importorskip("birder", reason="birder, 0.4 GB with what it needs, is not installed")
    from birder.net.hieradet import HieraDet

    config = CONFIG | dict(
        global_pos_size=(7, 7), global_att_blocks=global_blocks, window_spec=windows
    )
    return randomise(HieraDet(3, 5, config=config, size=(size, size)))


PEERS = {
    "hiera": (lambda: birder_hiera(False, 64), 64, {}, HIERA),
    "hiera_abswin": (lambda: birder_hiera(True, 64), 64, {}, HIERA),
    "hiera_abswin, 3 x 3 units": (lambda: birder_hiera(True, 96), 96, {}, HIERA),
    "hiera_abswin_ap": (lambda: birder_hiera(True, 64, attn_pool_head=True), 64, {}, HIERA),
    "hieradet": (lambda: birder_hieradet([8, 4, 14, 7], [5], 96), 96, SAM2_WINDOWS, HIERADET),
    "hieradet_d": (
        lambda: birder_hieradet([8, 4, 0, 0], [5], 96),
        96,
        dict(global_attn_blocks=(5,)),
        HIERADET,
    ),
}


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", PEERS)
def test_converted_weights_give_the_features_of_birder(name):
    make, size, windows, source = PEERS[name]
    peer, x = make(), images(size)
    converted = convert_state(peer.state_dict())
    assert converted.source.name == source
    trunk = (
        Hiera(
            **SMALL,
            **windows,
            pos_embed=converted.pos_embed,
            pos_embed_size=table_size(converted.state),
        )
        .double()
        .eval()
    )
    trunk.load_state_dict(converted.state, strict=True)
    expected = peer.detection_features(x)
    assert list(expected) == ["stage1", "stage2", "stage3", "stage4"]
    for ours, theirs in zip(trunk(x), expected.values(), strict=True):
        assert_close(ours, theirs, **EXACT)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("q_pool", [2, 3])  # the published one has 3
def test_mae_encoder_matches_birder_on_visible_units(q_pool):
    encoder = birder_hiera(True, 96, q_pool=q_pool)
    from birder.net.mim.mae_hiera import MAE_Hiera

    peer = randomise(MAE_Hiera(encoder, size=(96, 96)))
    converted = convert_state(peer.state_dict())
    assert converted.source.name == MAE
    counts = {group: len(keys) for group, (_, keys) in converted.left_out.items()}
    assert counts == {"encoder_norm": 2, "fusion": 2 * q_pool, "decoder": 104, "head": 4}
    size = table_size(converted.state)
    trunk = Hiera(**SMALL, q_pool=q_pool, pos_embed="absolute_win", pos_embed_size=size)
    trunk.double().eval().load_state_dict(converted.state, strict=True)
    keep = torch.tensor([[1, 0, 0, 1, 0, 0, 1, 0, 1], [0, 1, 1, 0, 0, 1, 0, 1, 0]])
    stages, _ = trunk.forward_units(images(96), keep.bool())
    expected, _ = encoder.masked_encoding(images(96), 1 - keep)  # (B, K, side, side, C)
    for ours, theirs in zip(stages, expected, strict=True):
        maps = units_to_map(ours.flatten(0, 1).unsqueeze(1), (1, 1))
        assert_close(maps, theirs.flatten(0, 1).permute(0, 3, 1, 2), **EXACT)


@pytest.mark.slow
def test_recorded_names_are_those_of_birder():
    for abs_win in (False, True):
        peer = birder_hiera(abs_win, 64)
        assert shapes(peer.state_dict()) == recorded(SMALL, 64, abs_win, classes=5)
    state = birder_hieradet([8, 4, 14, 7], [5], 64).state_dict()
    assert shapes(state) == recorded(SMALL, 112, True, classes=5, norm="features.0")


# ------------------------------------------------------------- by the names of birder's tensors
def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def recorded(
    size: dict, pixels: int, abs_win: bool, *, classes: int = 0, norm: str = "features.1"
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of birder 0.8.4's Hiera; HieraDet's norm is features.0."""
    dim = size["embed_dim"]
    tokens, cells = pixels // 4, pixels // 16
    out = {"pos_embed": (1, dim, cells, cells), "pos_embed_win": (1, dim, 8, 8)}
    if not abs_win:
        out = {"pos_embed": (1, tokens * tokens, dim)}
    out |= {"stem.proj.weight": (dim, 3, 7, 7), "stem.proj.bias": (dim,)}
    width = dim
    for stage, depth in enumerate(size["stages"]):
        for block in range(depth):
            new = dim * 2**stage
            layers = {
                "norm1": (width,),
                "attn.qkv": (3 * new, width),
                "attn.proj": (new, new),
                "norm2": (new,),
                "mlp.0": (4 * new, new),
                "mlp.3": (new, 4 * new),
            }
            layers |= {"proj": (new, width)} if new != width else {}
            for name, shape in layers.items():
                key = f"body.stage{stage + 1}.{block}.{name}"
                out |= {f"{key}.weight": shape, f"{key}.bias": shape[:1]}
            width = new
    out |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    if classes:
        out |= {"classifier.weight": (classes, width), "classifier.bias": (classes,)}
    return out


def zeros(spec: dict[str, tuple[int, ...]], prefix: str = "") -> dict[str, Tensor]:
    return {prefix + key: torch.zeros(shape, device="meta") for key, shape in spec.items()}


@pytest.mark.parametrize("variant", [name for name in VARIANTS if not name.startswith("sam2_")])
@pytest.mark.parametrize("abs_win", [False, True])
def test_every_size_fills_a_trunk(variant, abs_win):
    state = zeros(recorded(VARIANTS[variant], 224, abs_win, classes=707))
    converted = convert_state(state)
    assert (converted.variant, converted.source.name) == (variant, HIERA)
    assert table_size(converted.state) == (56, 56)
    assert {group: len(keys) for group, (_, keys) in converted.left_out.items()} == {"head": 4}
    check_trunk(converted)


def test_windows_of_sam2_are_for_the_name_to_say():
    state = zeros(recorded(VARIANTS["hiera_s"], 112, True, norm="features.0"))
    assert convert_state(state).variant == "hiera_s"
    converted = convert_state(state, variant="sam2_hiera_s")
    assert (converted.variant, converted.source.name) == ("sam2_hiera_s", HIERADET)
    assert table_size(converted.state) == (7, 7)  # as it is: HieraDet interpolates as we do
    check_trunk(converted)


def test_the_published_file_of_sam2s_trunk_says_its_variant(tmp_path):
    state = {"stem.proj.weight": torch.zeros(96, 3, 7, 7)}
    for name, variant in (
        ("hieradet_small_sam2_1.pt", "sam2_hiera_s"),
        ("hieradet_d_small_dino-v2.pt", None),
    ):
        torch.save({"state": state, "birder_version": "0.8.4"}, tmp_path / name)
        assert read_checkpoint(str(tmp_path / name)).meta.get("variant") == variant


def test_a_key_that_birder_has_not_is_an_error():
    state = zeros(recorded(VARIANTS["hiera_t"], 224, True))
    state["body.stage1.0.ls1.gamma"] = torch.zeros(96)
    with pytest.raises(ValueError, match=r"a file of birder Hiera has not: body\.stage1\.0\.ls1"):
        convert_state(state)


def file_of_birder(path, size: dict, prefix: str = "") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    spec = recorded(size, 64, True, classes=5)
    state = {prefix + k: torch.randn(v, generator=generator) for k, v in spec.items()}
    if prefix:
        state["decoder_pred.weight"] = torch.zeros(3072, 512)
        state["decoder_blocks.0.mlp.0.weight"] = torch.zeros(2048, 512)
    stats = {"mean": (0.5191, 0.5306, 0.4877), "std": (0.2316, 0.2304, 0.2588)}
    content = {"state": state, "rgb_stats": stats, "class_to_idx": {"wren": 0}, "task": "image"}
    torch.save(content | {"birder_version": "0.8.4", "signature": {"inputs": []}}, path)
    return state


def test_a_file_of_birder_brings_its_pixel_statistics(tmp_path):
    state = file_of_birder(tmp_path / "net.pt", SMALL)
    file = read_checkpoint(str(tmp_path / "net.pt"))
    assert file.state.keys() == state.keys()
    assert file.meta == {
        "pixel_mean": "132.37 135.303 124.364",
        "pixel_std": "59.058 58.752 65.994",
    }


def test_pretraining_takes_the_encoder_of_birders_mae(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    state = file_of_birder(tmp_path / "mae.pt", SMALL, "encoder.")
    assert not has_decoder(state)
    model = MaskedAutoencoderHiera(
        **SMALL,
        input_size=(64, 64),
        pos_embed="absolute_win",
        pos_embed_size=(16, 16),
        decoder_depth=1,
        decoder_embed_dim=32,
        decoder_num_heads=2,
    )
    before = model.decoder_pred.weight.clone()
    verdict = load_mae_checkpoint(model, str(tmp_path / "mae.pt"))
    assert "(birder MAE); decoder and fusion are new" in verdict
    assert_close(model.blocks[3].attn.qkv.weight, state["encoder.body.stage3.0.attn.qkv.weight"])
    assert_close(model.decoder_pred.weight, before)


def test_a_detectors_trunk_starts_from_birder(tmp_path):
    from hiera_det.checkpoint.load import load_init_checkpoint

    state = file_of_birder(tmp_path / "net.pt", VARIANTS["hiera_t"])
    trunk = build_hiera("hiera_t", pos_embed="absolute_win")
    verdict = load_init_checkpoint(trunk, str(tmp_path / "net.pt"))
    assert "from hiera_t (birder Hiera)" in verdict
    assert "background 16x16 resized to 7x7" in verdict
    assert_close(trunk.blocks[11].mlp.fc2.bias, state["body.stage4.1.mlp.3.bias"])
