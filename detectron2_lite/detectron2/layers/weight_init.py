"""Caffe2's initialisers, by fvcore's names.

``fvcore.nn.weight_init`` has the same two functions, but importing ``fvcore.nn`` also imports its
FLOP counters and scripts its losses, which warns on current torch.
"""

from torch import nn

__all__ = ["c2_msra_fill", "c2_xavier_fill"]


def c2_xavier_fill(module: nn.Module) -> None:
    """Weight uniform in ±sqrt(3 / fan_in), bias 0 (Caffe2's XavierFill)."""
    nn.init.kaiming_uniform_(module.weight, a=1)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def c2_msra_fill(module: nn.Module) -> None:
    """Weight normal with std sqrt(2 / fan_out), bias 0 (Caffe2's MSRAFill)."""
    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if module.bias is not None:
        nn.init.zeros_(module.bias)
