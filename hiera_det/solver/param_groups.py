"""Optimizer groups: what decays, and how fast each layer learns."""

from typing import Any

from detectron2.layers.batch_norm import LayerNorm as ChannelLayerNorm
from torch import nn

from hiera_det.modeling.variants import find_trunk

__all__ = ["layer_scale", "optimizer_params"]

NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,  # batch and instance norm of any dimension
    ChannelLayerNorm,  # Detectron2's "LN", which is no nn.LayerNorm
)
DECAYS = ("all but norms", "matrices")


def layer_scale(name: str, depth: int, layer_decay: float) -> float:
    """Factor of the learning rate of a parameter of the trunk.

    Layer ids as in SAM 2 and MAE: position and patch embedding 0, block i has i + 1, all else
    depth + 1; the factor is layer_decay ** (depth + 1 - id). Detectron2's `get_vit_lr_decay_rate`
    is told the depth by hand, and a wrong one gives factors above 1 without a word.

    Args:
        name: parameter of the trunk, without prefix.
        depth: blocks of the trunk.
        layer_decay: factor from a layer to the one below; 1 gives all the same rate.
    """
    if name.startswith(("pos_embed", "patch_embed")):
        layer = 0
    elif name.startswith("blocks."):
        layer = int(name.split(".")[1]) + 1
    else:
        layer = depth + 1
    return layer_decay ** (depth + 1 - layer)


def optimizer_params(
    model: nn.Module | None,
    base_lr: float,
    layer_decay: float = 1.0,
    decay: str = "all but norms",
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer: every trainable parameter in exactly one.

    What the trunk's `no_weight_decay()` names (position tables, the mask token of MAE) takes no
    weight decay. Of the rest `decay` says what takes the optimizer's:

        "all but norms"  biases too: ViTDet's recipe, which the Hiera paper follows for detection
                         (there Detectron2's channel LayerNorms decay as well, which is an oversight
                         of its group function)
        "matrices"       no vectors, so neither norms nor biases: MAE's and its fine-tuning's

    Args:
        model: a Hiera, or a model with one in it; `cfg.optimizer.params.model = model` sets it.
        base_lr: learning rate of everything outside the trunk.
        layer_decay: factor per layer of the trunk from the last block down; 1 is off.
        decay: see above.

    Returns:
        Dicts of params, lr and, where nothing decays, weight_decay 0; in the order of the model.

    Raises:
        ValueError: no model, no trunk in it, an unknown `decay`, or a layer_decay outside (0, 1].
    """
    if model is None:
        raise ValueError(
            "set cfg.optimizer.params.model to the model before the optimizer is built"
        )
    if not 0 < layer_decay <= 1:
        raise ValueError(f"optimizer.params.layer_decay={layer_decay} must be in (0, 1]")
    if decay not in DECAYS:
        raise ValueError(f"optimizer.params.decay={decay!r} is none of {DECAYS}")
    prefix, trunk = find_trunk(model)
    no_decay = {prefix + name for name in trunk.no_weight_decay()}
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    seen = set()
    for module_name, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            name = f"{module_name}.{leaf}" if module_name else leaf
            lr = base_lr
            if name.startswith(prefix):
                lr *= layer_scale(name.removeprefix(prefix), trunk.depth, layer_decay)
            decays = (
                not isinstance(module, NORMS) if decay == "all but norms" else parameter.ndim > 1
            )
            decays = decays and name not in no_decay
            group = groups.setdefault((lr, decays), {"params": [], "lr": lr})
            group["params"].append(parameter)
            if not decays:
                group["weight_decay"] = 0.0
    return list(groups.values())
