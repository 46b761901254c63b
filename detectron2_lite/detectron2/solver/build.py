"""Which parameter gets which learning rate and weight decay."""

from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["get_default_optimizer_params", "reduce_param_groups"]

# Detectron2's channel LayerNorm ("LN" of FPN and heads) is none of these: it is decayed.
_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer.

    What is None here is left to the optimizer's own defaults. A parameter that several modules
    share counts once, those without ``requires_grad`` not at all.

    Args:
        base_lr, weight_decay: of all; ``bias_lr_factor`` and ``lr_factor_func`` need ``base_lr``.
        weight_decay_norm: of torch's normalization layers.
        bias_lr_factor, weight_decay_bias: of every parameter named ``bias``.
        lr_factor_func: full parameter name to a factor on its learning rate.
        overrides: last part of a parameter name (``"pos_embed"``) to what replaces its options:
            ``{"weight_decay": 0.0}``.

    Returns:
        Groups of parameters with equal options, in order of first appearance.
    """
    overrides = dict(overrides or {})
    bias = {}
    if bias_lr_factor is not None and bias_lr_factor != 1.0:
        if base_lr is None:
            raise ValueError("bias_lr_factor requires base_lr")
        bias["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        bias["weight_decay"] = weight_decay_bias
    if bias:
        if "bias" in overrides:
            raise ValueError("'bias' is in overrides, and has options of its own: give one of them")
        overrides["bias"] = bias
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func requires base_lr")

    defaults = {"lr": base_lr, "weight_decay": weight_decay}
    defaults = {option: value for option, value in defaults.items() if value is not None}
    params, seen = [], set()
    for module_name, module in model.named_modules():
        for name, value in module.named_parameters(recurse=False):
            if not value.requires_grad or value in seen:
                continue
            seen.add(value)
            options = dict(defaults)
            if isinstance(module, _NORMS) and weight_decay_norm is not None:
                options["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                options["lr"] *= lr_factor_func(f"{module_name}.{name}")
            options.update(overrides.get(name, {}))
            params.append({"params": [value], **options})
    return reduce_param_groups(params)


def reduce_param_groups(params: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge groups whose options are equal: optimizers are faster with few groups."""
    merged: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
    for group in params:
        options = {name: value for name, value in group.items() if name != "params"}
        key = tuple(sorted(options.items()))
        merged.setdefault(key, {"params": [], **options})["params"].extend(group["params"])
    return list(merged.values())
