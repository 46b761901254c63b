"""Optimizer groups: what decays, how fast each layer learns, and that nothing is left out."""

import detectron2.modeling
import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import get_norm
from torch import nn

from hiera_det.config import load_config
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.variants import VARIANTS, find_trunk
from hiera_det.report.dry_run import check_groups
from hiera_det.solver import optimizer_params
from hiera_det.solver.param_groups import layer_scale
from pretrain.mae import MaskedAutoencoderHiera

SMALL = dict(embed_dim=16, stages=(1, 2, 2, 1))
NORMALIZED = ("norm", "norm1", "norm2")


@pytest.fixture(scope="module")
def model():
    cfg = load_config("COCO/mask_rcnn_hiera_t")
    with torch.device("meta"):
        return instantiate(cfg.model)


def group_of(groups: list[dict], parameter: nn.Parameter) -> dict:
    found = [g for g in groups if any(p is parameter for p in g["params"])]
    assert len(found) == 1
    return found[0]


def test_what_does_not_decay(model):
    """Norms, Detectron2's channel LayerNorm among them, and both position tables; biases do."""
    groups = optimizer_params(model, base_lr=1.0)
    still = {n for n, p in model.named_parameters() if "weight_decay" in group_of(groups, p)}
    tables = {"backbone.bottom_up.trunk.pos_embed", "backbone.bottom_up.trunk.pos_embed_window"}
    norms = {
        name
        for name, _ in model.named_parameters()
        if name.split(".")[-2] in NORMALIZED or ".out_norms." in name
    }
    assert still == tables | norms
    for name in (
        "backbone.fpn_lateral2.norm.weight",
        "roi_heads.box_head.conv1.norm.bias",
        "roi_heads.mask_head.mask_fcn4.norm.weight",
        "backbone.bottom_up.out_norms.scale5.weight",
    ):
        assert name in still
    assert all(g.get("weight_decay", 0.0) == 0.0 for g in groups)


@pytest.mark.parametrize("kind", ["BN", "GN", "LN", "FrozenBN"])
def test_norms_of_any_kind(kind):
    model = nn.ModuleDict(dict(trunk=Hiera(**SMALL), head=nn.Conv2d(32, 32, 1)))
    model["norm"] = get_norm(kind, 32)
    groups = optimizer_params(model, base_lr=1.0)
    for parameter in model["norm"].parameters():  # none where it is frozen
        assert group_of(groups, parameter)["weight_decay"] == 0.0
    assert "weight_decay" not in group_of(groups, model["head"].bias)
    check_groups(model, groups, 1.0)


# ------------------------------------------------------------------------------- "matrices"
def autoencoder(**kwargs):
    return MaskedAutoencoderHiera(
        embed_dim=16,
        stages=(1, 1, 1, 1),
        input_size=(64, 64),
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
        **kwargs,
    )


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["absolute", "absolute_win"])
def test_matrices_alone_decay_in_pretraining(kind, layer_decay):
    """Groups, and the order in each, of 0.2.0: whose optimizer states shall resume."""
    model = autoencoder(pos_embed=kind)
    tables = {"pos_embed", "pos_embed_window", "mask_token", "decoder_pos_embed"}
    expected: dict = {}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and name not in tables
        key = (0.3 * layer_scale(name, model.depth, layer_decay), 0.05 if decays else 0.0)
        expected.setdefault(key, []).append(parameter)
    groups = optimizer_params(model, 0.3, layer_decay, decay="matrices")
    groups = torch.optim.AdamW(groups, weight_decay=0.05).param_groups
    assert [(g["lr"], g["weight_decay"]) for g in groups] == list(expected)
    for group, parameters in zip(groups, expected.values(), strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in parameters]
    names = {id(p): name for name, p in model.named_parameters()}
    still = {names[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert set(names.values()) - still == {
        name for name in names.values() if name.endswith("weight") and "norm" not in name
    }
    check_groups(model, groups, 0.3)


def test_layer_decay_rises_along_the_depth():
    model = autoencoder()
    groups = optimizer_params(model, 1.0, 0.5, decay="matrices")
    named = dict(model.named_parameters())
    order = ["pos_embed", *(f"blocks.{k}.norm1.weight" for k in range(4)), "encoder_norm.weight"]
    rates = [group_of(groups, named[name])["lr"] for name in order]
    assert rates == [0.5**k for k in (5, 4, 3, 2, 1, 0)]
    assert group_of(groups, model.patch_embed.proj.weight)["lr"] == 0.5**5


def test_an_unknown_rule_of_decay_is_named():
    with pytest.raises(ValueError, match="optimizer.params.decay='biases' is none of"):
        optimizer_params(Hiera(**SMALL), 1.0, decay="biases")


@pytest.mark.parametrize(
    "name, depth, decay, expected",
    [
        # SAM 2's B+: 24 blocks, 0.9. Embeddings 0.9 ** 25, first block 0.9 ** 24, last block 0.9
        ("pos_embed", 24, 0.9, 0.07178979876918526),
        ("pos_embed_window", 24, 0.9, 0.07178979876918526),
        ("patch_embed.proj.bias", 24, 0.9, 0.07178979876918526),
        ("blocks.0.attn.qkv.weight", 24, 0.9, 0.07976644307687251),
        ("blocks.23.mlp.fc2.bias", 24, 0.9, 0.9),
        # T: 12 blocks, 0.8
        ("blocks.10.norm1.weight", 12, 0.8, 0.64),
        ("patch_embed.proj.weight", 12, 0.8, 0.05497558138880001),
        ("something.else", 12, 0.8, 1.0),
    ],
)
def test_layer_scale_by_hand(name, depth, decay, expected):
    assert layer_scale(name, depth, decay) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_layers_below_never_learn_faster(variant):
    depth = sum(VARIANTS[variant]["stages"])
    names = ["pos_embed", "patch_embed.proj.weight", *(f"blocks.{i}.proj" for i in range(depth))]
    scales = [layer_scale(name, depth, 0.8) for name in names]
    assert scales == sorted(scales) and scales[-1] == pytest.approx(0.8)
    assert scales[0] == scales[1] == pytest.approx(0.8 ** (depth + 1))


def test_factors_are_those_of_detectron2(model):
    """With the depth that Detectron2's function has to be told."""
    decay_rate = getattr(detectron2.modeling, "get_vit_lr_decay_rate", None)
    if decay_rate is None:
        pytest.skip("detectron2_lite has no get_vit_lr_decay_rate")
    prefix, trunk = find_trunk(model)
    groups = optimizer_params(model, base_lr=1.0, layer_decay=0.8)
    for name, parameter in model.named_parameters():
        expected = decay_rate(name, lr_decay_rate=0.8, num_layers=trunk.depth)
        assert group_of(groups, parameter)["lr"] == pytest.approx(expected, rel=1e-12), name


def test_factors_are_those_of_timm():
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    peer = timm.create_model("hiera_tiny_224", num_classes=3)
    names = {id(p): name for name, p in peer.named_parameters()}
    for group in param_groups_layer_decay(peer, weight_decay=0.1, layer_decay=0.7):
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert layer_scale(name, 12, 0.7) == pytest.approx(group["lr_scale"], rel=1e-9), name


def test_layer_decay_reaches_the_trunk_alone(model):
    groups = optimizer_params(model, base_lr=2.0, layer_decay=0.5)
    for name, parameter in model.named_parameters():
        inside = ".trunk." in name
        assert (group_of(groups, parameter)["lr"] < 2.0) == inside, name
    check_groups(model, groups, 2.0)


def test_frozen_parameters_are_in_no_group():
    cfg = load_config("COCO/mask_rcnn_hiera_t", ["model.backbone.bottom_up.freeze_at=2"])
    with torch.device("meta"):
        model = instantiate(cfg.model)
    groups = optimizer_params(model, base_lr=1.0, layer_decay=0.8)
    check_groups(model, groups, 1.0)
    frozen = {id(p) for p in model.parameters() if not p.requires_grad}
    assert len(frozen) > 20
    assert not any(id(p) in frozen for g in groups for p in g["params"])


def test_a_shared_parameter_is_in_one_group():
    model = nn.ModuleDict(dict(trunk=Hiera(**SMALL), a=nn.Linear(2, 2), b=nn.Linear(2, 2)))
    model["b"].weight = model["a"].weight
    check_groups(model, optimizer_params(model, base_lr=1.0), 1.0)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda groups: groups[0]["params"].pop(), "trainable and in 0 groups"),
        (lambda groups: groups[1]["params"].append(groups[0]["params"][0]), "and in 2 groups"),
        (lambda groups: groups[0].update(lr=1.5), "lr=1.5, above optimizer.lr=1: .*layer decay"),
    ],
)
def test_wrong_groups_are_refused(change, message):
    model = Hiera(**SMALL)
    groups = optimizer_params(model, base_lr=1.0)
    check_groups(model, groups, 1.0)
    change(groups)
    with pytest.raises(ValueError, match=message):
        check_groups(model, groups, 1.0)


@pytest.mark.parametrize(
    "model, layer_decay, message",
    [
        (None, 1.0, "cfg.optimizer.params.model"),
        (nn.Linear(1, 1), 1.0, "has 0 Hiera trunks"),
        (nn.ModuleList([Hiera(**SMALL), Hiera(**SMALL)]), 1.0, r"has 2 Hiera trunks.*'0', '1'"),
        (Hiera(**SMALL), 1.1, r"layer_decay=1.1 must be in \(0, 1\]"),
        (Hiera(**SMALL), 0.0, r"layer_decay=0.0 must be in \(0, 1\]"),
    ],
)
def test_bad_arguments(model, layer_decay, message):
    with pytest.raises(ValueError, match=message):
        optimizer_params(model, 1.0, layer_decay)
