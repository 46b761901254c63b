"""Loading into a model: the verdict, and every way in which a file does not fit."""

import logging
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hiera_det.checkpoint import load_full, load_init_checkpoint, write_checkpoint
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.variants import VARIANTS, build_hiera

SMALL = dict(embed_dim=16, num_heads=1, stages=(1, 2, 4, 1))
WINDOWS = dict(window_size=(8, 4, 16, 8), pos_embed="absolute_win")
TRUNK = "backbone.bottom_up.trunk."


def detector(trunk: nn.Module | None = None, classes: int = 5, at: str = "bottom_up") -> nn.Module:
    """A detector's module names, as Detectron2's GeneralizedRCNN has them, around a trunk."""
    bottom_up = nn.Module()
    bottom_up.trunk = trunk if trunk is not None else Hiera(**SMALL, **WINDOWS)
    bottom_up.out_norms = nn.ModuleDict({"scale2": nn.LayerNorm(16)})
    model = nn.Module()
    model.backbone = nn.Module()
    setattr(model.backbone, at, bottom_up)
    model.backbone.fpn_lateral2 = nn.Conv2d(16, 8, 1)
    model.proposal_generator = nn.Linear(8, 3)
    model.roi_heads = nn.Module()
    model.roi_heads.box_head = nn.Linear(8, 8)
    model.roi_heads.box_predictor = nn.Module()
    model.roi_heads.box_predictor.cls_score = nn.Linear(8, classes + 1)
    return model


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return model


def official_mae(**kwargs) -> dict[str, Tensor]:
    state = randomised(Hiera(**(SMALL | dict(q_pool=2) | kwargs))).state_dict()
    state = {key: value.clone() for key, value in state.items()}
    for key in ("encoder_norm.weight", "decoder_pred.weight", "mask_token"):
        state[key] = torch.zeros(1)
    return state


def save(state: dict[str, Tensor], path, wrapper: str = "model_state") -> str:
    torch.save({wrapper: state}, path)
    return str(path)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


# ------------------------------------------------------------------------------- it fits
def test_official_mae_starts_a_detector(tmp_path, caplog):
    state = official_mae()
    path = save(state, tmp_path / "mae.pth")
    model = detector(Hiera(**SMALL))
    before = snapshot(model)
    with caplog.at_level(logging.INFO):
        verdict = load_init_checkpoint(model, path)
    assert verdict == (
        "backbone 105/105 tensors from embed_dim 16, 8 blocks (official MAE); "
        "new: fpn, rpn, roi_heads, out norms; left out: encoder_norm (1), decoder (2)"
    )
    assert verdict in caplog.text
    for key, value in model.state_dict().items():
        inside = key.startswith(TRUNK)
        expected = state[key.removeprefix(TRUNK)] if inside else before[key]
        assert_close(value, expected, rtol=0, atol=0)


def test_tables_become_those_of_the_trunk(tmp_path):
    model = detector()
    verdict = load_init_checkpoint(model, save(official_mae(), tmp_path / "mae.pth"))
    assert "backbone 106/106" in verdict
    assert "pos_embed 56x56 approximated by an 8x8 window and a 7x7 background" in verdict
    window = official_mae()["pos_embed"].reshape(7, 8, 7, 8, 16).mean(dim=(0, 2))  # (8, 8, C)
    assert_close(model.backbone.bottom_up.trunk.pos_embed_window[0].permute(1, 2, 0), window)


@pytest.mark.parametrize("at", ["bottom_up", "net"])
def test_own_files(at, tmp_path):
    source = randomised(detector(at=at))
    full = save(source.state_dict(), tmp_path / "model_final.pth", "model")
    trunk = str(tmp_path / "trunk.pth")
    write_checkpoint(
        trunk, getattr(source.backbone, at).trunk.state_dict(), {"source": "official MAE"}
    )
    for load in (load_init_checkpoint, load_full):
        model = detector(at=at)
        assert load(model, full) == f"model 116/116 tensors from {full}"
        assert_close(model.state_dict(), source.state_dict(), rtol=0, atol=0)
    verdict = load_init_checkpoint(detector(at=at), trunk)
    assert verdict.startswith("backbone 106/106 tensors from embed_dim 16, 8 blocks (official MAE)")


def test_the_trunk_of_a_detector_fills_a_bare_trunk(tmp_path):
    source = randomised(detector())
    path = save(source.state_dict(), tmp_path / "model_final.pth", "model")
    trunk = Hiera(**SMALL, **WINDOWS)
    verdict = load_init_checkpoint(trunk, path)
    assert verdict.endswith("left out: out norms (2), fpn (2), rpn (2), roi_heads (4)")
    expected = source.backbone.bottom_up.trunk.state_dict()
    assert_close(trunk.state_dict(), expected, rtol=0, atol=0)


# ----------------------------------------------------------------------------- it does not fit
def refused(model: nn.Module, path: str, message: str, load=load_init_checkpoint, **kwargs) -> str:
    """`load` raises, and the model is as it was."""
    before = snapshot(model)
    with pytest.raises(ValueError, match=message) as error:
        load(model, path, **kwargs)
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert path in str(error.value) or "allow_missing" in str(error.value)
    return str(error.value)


def test_missing_and_misshapen_tensors_of_the_trunk(tmp_path):
    state = official_mae()
    del state["blocks.2.norm1.bias"]
    state["blocks.0.mlp.fc1.weight"] = torch.zeros(60, 16)
    path = save(state, tmp_path / "mae.pth")
    model = detector()
    message = refused(model, path, "nothing was loaded")
    missing, misshapen = f"{TRUNK}blocks.2.norm1.bias", f"{TRUNK}blocks.0.mlp.fc1.weight"
    assert f"Missing from the file (1): {missing} (32,)." in message
    assert f"Other shapes, file and model (1): {misshapen} (60, 16) and (64, 16)." in message
    assert f"\"train.allow_missing=['{missing}','{misshapen}']\"" in message
    before = snapshot(model)
    verdict = load_init_checkpoint(model, path, allow_missing=[missing, "*.blocks.0.mlp.fc1.*"])
    assert "backbone 104/106" in verdict
    assert "new: backbone 2/106, fpn" in verdict
    for key in (missing, misshapen):
        assert_close(model.state_dict()[key], before[key], rtol=0, atol=0)


def test_an_unknown_tensor_of_the_trunk(tmp_path):
    path = save(official_mae() | {"blocks.0.extra": torch.zeros(1)}, tmp_path / "mae.pth")
    refused(detector(), path, "1 keys that a file of official MAE has not: blocks.0.extra")
    verdict = load_init_checkpoint(detector(), path, allow_unexpected=["*.extra"])
    assert "unknown (1)" in verdict


def test_another_size(tmp_path):
    path = save(official_mae(stages=(1, 2, 7, 2)), tmp_path / "mae.pth")
    refused(detector(), path, "this is embed_dim 16, 12 blocks; .* embed_dim 16 and 8 blocks")


def test_another_number_of_classes(tmp_path):
    path = save(detector(classes=80).state_dict(), tmp_path / "model_final.pth", "model")
    model = detector()
    message = refused(model, path, "nothing was loaded")
    assert "roi_heads.box_predictor.cls_score.weight (81, 8) and (6, 8)" in message
    assert "as many classes as the file has" in message
    assert "train.allow_missing=['roi_heads.box_predictor.cls_score.weight'" in message
    message = refused(model, path, "as many classes", load=load_full)
    assert "allow_missing" not in message
    verdict = load_init_checkpoint(model, path, allow_missing=["roi_heads.*"])
    assert verdict.endswith("; new: roi_heads 2/4; left out: roi_heads (2)")


def test_another_architecture(tmp_path):
    model = detector()
    model.roi_heads.mask_head = nn.Linear(2, 2)
    full = detector()
    full.roi_heads.extra = nn.Linear(1, 1)
    path = save(full.state_dict(), tmp_path / "model_final.pth", "model")
    for load in (load_init_checkpoint, load_full):
        message = refused(model, path, "nothing was loaded", load=load)
        assert "Missing from the file (2): roi_heads.mask_head.weight (2, 2), " in message
        assert "Without a place in the model (2): roi_heads.extra.weight" in message
    load_init_checkpoint(
        model, path, allow_missing=["roi_heads.mask_head.*"], allow_unexpected=["*.extra.*"]
    )


def test_another_pyramid(tmp_path):
    path = save(detector().state_dict(), tmp_path / "model_final.pth", "model")
    message = refused(detector(at="net"), path, "take the file's trunk alone")
    assert "train.allow_unexpected=['backbone.bottom_up.*']" in message


def test_evaluation_takes_no_backbone(tmp_path):
    path = save(official_mae(), tmp_path / "mae.pth")
    message = refused(detector(), path, "holds a backbone", load=load_full)
    assert "(embed_dim 16, 8 blocks, official MAE) and nothing of fpn, rpn, roi_heads" in message
    path = save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth", "model")
    refused(detector(), path, "layer1.0.conv1.weight", load=load_full)


def test_a_pattern_that_matches_nothing_is_a_slip(tmp_path):
    path = save(official_mae(), tmp_path / "mae.pth")
    refused(detector(), path, "'roi_head.*' matches no tensor", allow_missing=["roi_head.*"])


def test_other_networks_and_models_without_a_trunk(tmp_path):
    path = save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth", "model")
    refused(detector(), path, "a ResNet")
    with pytest.raises(ValueError, match="has 0 Hiera trunks, not one"):
        load_init_checkpoint(nn.Linear(1, 1), path)


# --------------------------------------------------------------------------------------- SAM 2
@pytest.fixture(scope="module")
def sam2_file(tmp_path_factory) -> str:
    """A SAM 2 `.pt` of the tiny size: all zeros, hardly a byte on disk."""
    with torch.device("meta"):
        state = build_hiera("sam2_hiera_t").state_dict()
    state = {
        "image_encoder.trunk."
        + k.replace("fc1", "layers.0").replace("fc2", "layers.1"): torch.zeros(1).expand(v.shape)
        for k, v in state.items()
    }
    state["sam_mask_decoder.iou_token.weight"] = torch.zeros(1)
    return save(state, tmp_path_factory.mktemp("sam2") / "sam2.1_hiera_tiny.pt", "model")


@pytest.mark.parametrize(
    "kwargs",
    [dict(), dict(pos_embed="absolute_win"), WINDOWS | dict(global_attn_blocks=(5, 7, 9))],
)
def test_sam2_needs_its_own_windows(sam2_file, kwargs):
    model = detector(build_hiera("hiera_t", **kwargs))
    message = refused(model, sam2_file, "weights of sam2_hiera_t, trained with window_size")
    assert "window_size=[8, 4, 14, 7] and global_attn_blocks=[5, 7, 9]" in message
    assert "Use configs/COCO/mask_rcnn_sam2_hiera_t.py" in message


@pytest.mark.parametrize("kwargs", [dict(), dict(pos_embed="absolute", pos_embed_size=(56, 56))])
def test_sam2_fills_a_trunk_with_its_windows(sam2_file, kwargs):
    model = detector(build_hiera("sam2_hiera_t", **kwargs))
    verdict = load_init_checkpoint(model, sam2_file)
    assert "tensors from sam2_hiera_t (SAM 2)" in verdict
    assert not any(p.any() for p in model.backbone.bottom_up.trunk.parameters())


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("sam2_")])
def test_the_leaf_that_the_error_names_has_the_windows(variant):
    pytest.importorskip("detectron2")
    from detectron2.config import instantiate

    import hiera_det

    cfg = hiera_det.get_config(f"COCO/mask_rcnn_{variant}.py")
    with torch.device("meta"):
        trunk = instantiate(cfg.model.backbone.bottom_up.trunk)
        expected = build_hiera(variant)
    assert [b.window for b in trunk.blocks] == [b.window for b in expected.blocks]
    assert trunk.embed_dims == expected.embed_dims


# --------------------------------------------------------------------- a stage that is not built
THREE_STAGES = dict(stages=(1, 2, 4), window_size=(8, 4, 16), pos_embed="absolute_win", q_pool=2)
STAGE_4 = ["blocks.7.*"]


@pytest.mark.parametrize("at", ["bottom_up", "net"])
def test_blocks_left_out_by_name(at, tmp_path):
    state = official_mae()
    path = save(state, tmp_path / "mae.pth")
    model = detector(Hiera(**(SMALL | THREE_STAGES)), at=at)
    refused(model, path, "this is embed_dim 16, 8 blocks; .* embed_dim 16 and 7 blocks")
    verdict = load_init_checkpoint(model, path, allow_unexpected=STAGE_4)
    assert verdict.startswith("backbone 92/92 tensors from embed_dim 16, 7 blocks (official MAE)")
    assert verdict.endswith("left out: encoder_norm (1), decoder (2), blocks 7 to 7 (14)")
    trunk = getattr(model.backbone, at).trunk.state_dict()
    for key in trunk.keys() - {"pos_embed", "pos_embed_window"}:
        assert_close(trunk[key], state[key], rtol=0, atol=0)


@pytest.mark.parametrize("stages, last", [(3, "7 to 7 (14)"), (2, "3 to 7 (64)")])
def test_stages_that_no_map_is_taken_of_are_left_out(stages, last, tmp_path):
    """Without leave: the trunk knows that it had them."""
    state = official_mae()
    path = save(state, tmp_path / "mae.pth")
    trunk = Hiera(**SMALL, pos_embed="absolute_win")
    trunk.keep_stages(stages)
    verdict = load_init_checkpoint(detector(trunk), path)
    total = len(trunk.state_dict())
    assert verdict.startswith(f"backbone {total}/{total} tensors from embed_dim 16, ")
    assert verdict.endswith(f"left out: encoder_norm (1), decoder (2), blocks {last}")
    for key in trunk.state_dict().keys() - {"pos_embed", "pos_embed_window"}:
        assert_close(trunk.state_dict()[key], state[key], rtol=0, atol=0)
    other = save(official_mae(stages=(1, 2, 7, 2)), tmp_path / "other.pth")
    refused(detector(trunk), other, "this is embed_dim 16, 12 blocks")
    del state["blocks.1.norm1.bias"]
    refused(detector(trunk), save(state, tmp_path / "hole.pth"), "blocks.1.norm1.bias")


def test_leave_covers_nothing_else(tmp_path):
    """Patterns of the blocks of one size do not make a file of another size fit."""
    model = detector(Hiera(**(SMALL | THREE_STAGES)))
    path = save(official_mae(stages=(1, 2, 7, 2)), tmp_path / "larger.pth")
    refused(model, path, "this is embed_dim 16, 12 blocks", allow_unexpected=STAGE_4)
    state = official_mae()
    del state["blocks.6.norm1.bias"]
    path = save(state, tmp_path / "mae.pth")
    refused(model, path, "blocks.6.norm1.bias", allow_unexpected=STAGE_4)


# ------------------------------------------------------------------------- the leaves of configs/
def leaf(name: str):
    pytest.importorskip("detectron2")
    from detectron2.config import instantiate

    import hiera_det

    cfg = hiera_det.get_config(f"COCO/{name}.py")
    return instantiate(cfg.model), dict(allow_unexpected=cfg.train.allow_unexpected)


def official_file(kind: str, size: str, folder) -> tuple[str, dict[str, Tensor]]:
    """A file as the authors publish it, from their code; the weights are random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hiera-transformer imports a deprecated timm path
        hiera = pytest.importorskip("hiera")
        state = getattr(hiera, f"{kind}_{size}_224")(pretrained=False).state_dict()
    return save(state, folder / f"{kind}_{size}_224.pth"), state


@pytest.mark.parametrize(
    "name, kind, size, verdict",
    [
        (
            "mask_rcnn_hiera_t",
            "mae_hiera",
            "tiny",
            "backbone 154/154 tensors from hiera_t (official MAE); pos_embed 56x56 approximated by "
            "an 8x8 window and a 7x7 background; new: fpn, rpn, roi_heads, out norms; left out: "
            "decoder (104), encoder_norm (2), fusion (4)",
        ),
        pytest.param(
            "cascade_mask_rcnn_hiera_s",
            "hiera",
            "small",
            "backbone 202/202 tensors from hiera_s (official ImageNet); pos_embed 56x56 "
            "approximated by an 8x8 window and a 7x7 background; new: fpn, rpn, roi_heads, out "
            "norms; left out: head (4)",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "mask_rcnn_hiera_b_sfp",
            "mae_hiera",
            "base",
            "backbone 260/260 tensors from hiera_b (official MAE); pos_embed 56x56 approximated by "
            "an 8x8 window and a 7x7 background; new: fpn, rpn, roi_heads, out norms; left out: "
            "decoder (104), encoder_norm (2), fusion (4), blocks 21 to 23 (38)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_official_files_start_the_leaves(name, kind, size, verdict, tmp_path):
    path, state = official_file(kind, size, tmp_path)
    model, patterns = leaf(name)
    assert load_init_checkpoint(model, path, **patterns) == verdict
    (trunk,) = (m for m in model.modules() if isinstance(m, Hiera))
    for key, value in trunk.state_dict().items():
        if "pos_embed" not in key:
            assert_close(value, state[key], rtol=0, atol=0)


@pytest.mark.parametrize("variant", ["hiera_s", "hiera_l", "sam2_hiera_s"])
def test_another_size_names_the_config(variant, tmp_path):
    with torch.device("meta"):
        state = build_hiera(variant, q_pool=3).state_dict()
    state = {k: torch.zeros(1).expand(v.shape) for k, v in state.items()}
    prefix = ""
    if variant.startswith("sam2"):
        prefix = "image_encoder.trunk."
        state = {
            k.replace("fc1", "layers.0").replace("fc2", "layers.1"): v for k, v in state.items()
        }
    path = save({prefix + k: v for k, v in state.items()}, tmp_path / "a.pt", "model")
    model = detector(build_hiera("hiera_t"))
    message = refused(model, path, f"this is {variant}; the model's trunk has embed_dim 96 and 12")
    assert f"Take configs/COCO/mask_rcnn_{variant}.py, or weights of the model's size" in message


def test_sam2_starts_its_leaf(sam2_file):
    model, patterns = leaf("mask_rcnn_sam2_hiera_t")
    assert load_init_checkpoint(model, sam2_file, **patterns) == (
        "backbone 154/154 tensors from sam2_hiera_t (SAM 2); new: fpn, rpn, roi_heads, out norms; "
        "left out: prompts and memory (1)"
    )
    with pytest.raises(ValueError, match="mask_rcnn_sam2_hiera_t.py"):
        load_init_checkpoint(leaf("mask_rcnn_hiera_t")[0], sam2_file)


@pytest.mark.slow
def test_the_config_of_the_paper(tmp_path):
    pytest.importorskip("detectron2")
    from detectron2.config import instantiate

    import hiera_det

    cfg = hiera_det.get_config("COCO/mask_rcnn_hiera_b.py")
    model = instantiate(cfg.model)
    state = build_hiera("hiera_b", q_pool=2).state_dict()
    state["decoder_pred.weight"] = torch.zeros(1)
    verdict = load_init_checkpoint(model, save(state, tmp_path / "mae_hiera_base_224.pth"))
    assert verdict.startswith("backbone 298/298 tensors from hiera_b (official MAE); pos_embed")
    assert "new: fpn, rpn, roi_heads, out norms; left out: decoder (1)" in verdict
    path = save(model.state_dict(), tmp_path / "model_final.pth", "model")
    total = len(model.state_dict())
    assert load_full(model, path) == f"model {total}/{total} tensors from {path}"
    cfg.model.roi_heads.num_classes = 3
    with pytest.raises(ValueError, match=r"train\.allow_missing=\['roi_heads\.\*'\]"):
        load_init_checkpoint(instantiate(cfg.model), path)
