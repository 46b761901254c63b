"""Which parameters decay, and how fast each layer learns."""

from hiera_det.modeling.hiera import Hiera
from hiera_det.solver.param_groups import layer_scale

__all__ = ["param_groups"]


def param_groups(
    model: Hiera, lr: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict]:
    """Parameter groups for AdamW.

    No decay for vectors (norms and biases) and for what the model's `no_weight_decay()` names: the
    position tables and the mask token. With `layer_decay` the patch embedding and the position
    tables have the lowest rate, lr * layer_decay ** (depth + 1), and what comes after the last
    block has `lr`.

    Args:
        model: one Hiera, with whatever else it has.
        lr: of the last layer.
        weight_decay: of matrices and kernels.
        layer_decay: factor from one block to the one before it.

    Returns:
        Groups with "params", "lr", "weight_decay", disjoint, over all trainable parameters.

    Raises:
        ValueError: layer_decay is not in (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"optimizer.params.layer_decay={layer_decay} must be in (0, 1]")
    tables = model.no_weight_decay()
    groups: dict[tuple[float, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = layer_scale(name, model.depth, layer_decay)
        decays = parameter.ndim > 1 and name not in tables
        group = groups.setdefault(
            (scale, decays),
            {
                "params": [],
                "lr": lr * scale,
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())
