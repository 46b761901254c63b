"""Learning rate schedules and parameter groups."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params, reduce_param_groups
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from golden_models import MODELS
from torch import nn
from torch.testing import assert_close

MAX_ITER = 1000


def _schedules():
    steps = MultiStepParamScheduler([1.0, 0.1, 0.01], milestones=[889, 963], num_updates=MAX_ITER)
    short = MultiStepParamScheduler([1.0, 0.1], milestones=[8, 10])
    return {
        "multistep": WarmupParamScheduler(steps, 0.001, 250 / MAX_ITER),
        "cosine": WarmupParamScheduler(CosineParamScheduler(1.0, 0.0), 0.01, 0.1, "linear"),
        "const": WarmupParamScheduler(short, 0.5, 0.05, "constant"),
    }


@pytest.mark.parametrize("name", ["multistep", "cosine", "const"])
def test_warmup_schedule(name, golden):
    """Linear warm-up runs to the schedule's value at its end; the rest is not shifted."""
    schedule = _schedules()[name]
    values = torch.tensor([schedule(i / MAX_ITER) for i in golden["lr/its"]], dtype=torch.float64)
    assert_close(values, torch.from_numpy(golden[f"lr/{name}"]), rtol=0, atol=1e-9)


def test_warmup_by_hand():
    """Factor .1 over the first 20 % of a cosine: .1, then half-way to cos at .2, then the cosine.

    With ``rescale_interval`` the warm-up ends at 1 and the whole cosine follows.
    """
    cosine = CosineParamScheduler(1.0, 0.0)
    at_end = cosine(0.2)
    plain = WarmupParamScheduler(cosine, 0.1, 0.2)
    assert plain(0.0) == pytest.approx(0.1)
    assert plain(0.1) == pytest.approx((0.1 + at_end) / 2)
    assert plain(0.2) == pytest.approx(at_end)
    assert plain(0.7) == pytest.approx(cosine(0.7))
    squeezed = WarmupParamScheduler(cosine, 0.1, 0.2, rescale_interval=True)
    assert squeezed(0.1) == pytest.approx(0.55)
    assert squeezed(0.6) == pytest.approx(cosine(0.5))


def test_unknown_warmup_method():
    with pytest.raises(ValueError, match="quadratic"):
        WarmupParamScheduler(CosineParamScheduler(1.0, 0.0), 0.1, 0.1, "quadratic")


def _optimizer(*rates):
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.AdamW(groups)


def test_lr_multiplier_scales_every_group(golden, golden_json):
    """Each group's learning rate is its initial one times the factor at last_epoch / max_iter.

    The state is plain numbers: ``base_lrs`` and ``last_epoch``.
    """
    optimizer = _optimizer(1e-3, 1e-4)
    scheduler = LRMultiplier(optimizer, _schedules()["multistep"], max_iter=MAX_ITER)
    rows = []
    for _ in range(260):
        rows.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    rates = torch.tensor(rows, dtype=torch.float64)[::20]
    assert_close(rates, torch.from_numpy(golden["lr/optimizer"]), rtol=0, atol=1e-9)
    assert scheduler.state_dict() == golden_json["lr/state"]


def test_lr_multiplier_continues_at_last_iter():
    """With ``last_iter`` it starts where a run that did these iterations would be."""
    whole, rest = _optimizer(0.1), _optimizer(0.1)
    schedule = _schedules()["cosine"]
    first = LRMultiplier(whole, schedule, max_iter=10)
    for _ in range(4):
        whole.step()
        first.step()
    rest.param_groups[0]["initial_lr"] = 0.1
    LRMultiplier(rest, schedule, max_iter=10, last_iter=3)
    assert rest.param_groups[0]["lr"] == whole.param_groups[0]["lr"]


def test_lr_multiplier_wants_a_param_scheduler():
    with pytest.raises(ValueError, match="ParamScheduler"):
        LRMultiplier(_optimizer(0.1), lambda where: 1.0, 10)


# ------------------------------------------------------------------ parameter groups


def _named_groups(model, groups):
    names = {id(value): name for name, value in model.named_parameters()}
    return [
        {k: v for k, v in group.items() if k != "params"}
        | {"names": [names[id(value)] for value in group["params"]]}
        for group in groups
    ]


def _factor(name):
    if name.startswith("backbone.bottom_up.stages.0"):
        return 0.5
    return 0.8 if name.startswith("backbone") else 1.0


def test_groups_of_a_model(golden_json):
    """Groups of equal options in first-seen order; ``lr_factor_func`` gets the full name and
    ``overrides`` the leaf name."""
    model = instantiate(MODELS["fpn_ln"]())
    groups = get_default_optimizer_params(
        model,
        base_lr=1e-3,
        weight_decay_norm=0.0,
        lr_factor_func=_factor,
        overrides={"bias": {"weight_decay": 0.0}},
    )
    assert _named_groups(model, groups) == golden_json["opt/groups"]


def test_channel_layer_norm_is_decayed(golden_json):
    """``weight_decay_norm`` is for torch's norms; "LN" of FPN, SFP and heads is none of them."""
    model = instantiate(MODELS["sfp"]())
    groups = get_default_optimizer_params(model, base_lr=1e-3, weight_decay_norm=0.0)
    assert _named_groups(model, groups) == golden_json["opt/groups_sfp"]


def _layers():
    return nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Conv2d(2, 2, 1))


def test_bias_options_and_norm_decay():
    """Biases take their own factor and decay, over those of norms; what is None is left out."""
    model = _layers()
    groups = get_default_optimizer_params(
        model,
        base_lr=1.0,
        weight_decay=0.1,
        weight_decay_norm=0.0,
        bias_lr_factor=2.0,
        weight_decay_bias=0.5,
    )
    assert _named_groups(model, groups) == [
        {"lr": 1.0, "weight_decay": 0.1, "names": ["0.weight", "2.weight"]},
        {"lr": 2.0, "weight_decay": 0.5, "names": ["0.bias", "1.bias", "2.bias"]},
        {"lr": 1.0, "weight_decay": 0.0, "names": ["1.weight"]},
    ]
    assert [sorted(group) for group in get_default_optimizer_params(model)] == [["params"]]


def test_overrides_win_over_the_factor():
    model = _layers()[:1]
    groups = get_default_optimizer_params(
        model, base_lr=1.0, lr_factor_func=lambda name: 0.5, overrides={"weight": {"lr": 3.0}}
    )
    assert _named_groups(model, groups) == [
        {"lr": 3.0, "names": ["0.weight"]},
        {"lr": 0.5, "names": ["0.bias"]},
    ]


def test_shared_and_frozen_parameters():
    """A shared parameter counts once, a frozen one not at all."""
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad = False
    groups = get_default_optimizer_params(nn.Sequential(layer, layer))
    assert [len(group["params"]) for group in groups] == [1]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"bias_lr_factor": 2.0}, "bias_lr_factor requires base_lr"),
        ({"lr_factor_func": lambda name: 1.0}, "lr_factor_func requires base_lr"),
        ({"weight_decay_bias": 0.0, "overrides": {"bias": {"lr": 1.0}}}, "bias"),
    ],
)
def test_options_that_do_not_fit(options, match):
    with pytest.raises(ValueError, match=match):
        get_default_optimizer_params(_layers(), **options)


def test_reduce_param_groups():
    """Groups with equal options are merged; parameters keep their order."""
    a, b, c = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    groups = [{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.2}, {"params": [c], "lr": 0.1}]
    reduced = reduce_param_groups(groups)
    assert [group["lr"] for group in reduced] == [0.1, 0.2]
    assert reduced[0]["params"][0] is a and reduced[0]["params"][1] is c
