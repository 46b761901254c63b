"""Normalisation layers over (N, C, H, W) maps."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FrozenBatchNorm2d", "LayerNorm", "get_norm"]


class FrozenBatchNorm2d(nn.Module):
    """BatchNorm2d with constant statistics and affine parameters.

    ``weight``, ``bias``, ``running_mean`` and ``running_var`` are buffers of shape (C,), so that
    BatchNorm2d checkpoints load and nothing is trained. Fresh, it is the identity.
    """

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        # As one multiply-add: batch_norm would compute and keep gradients of its constants.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        scale, shift = scale.to(x.dtype)[:, None, None], shift.to(x.dtype)[:, None, None]
        return x * scale + shift

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}, eps={self.eps}"


class LayerNorm(nn.Module):
    """LayerNorm over the channels of a (N, C, H, W) map at each position.

    Deliberately not a ``torch.nn.LayerNorm``: ``solver.get_default_optimizer_params`` knows norms
    by their torch classes, and Detectron2 does decay the weights of this one.
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps = eps
        self.normalized_shape = (normalized_shape,)

    def forward(self, x: Tensor) -> Tensor:
        # Written out, as F.layer_norm over a permuted map rounds differently from Detectron2.
        x = x - x.mean(1, keepdim=True)
        x = x / torch.sqrt(x.pow(2).mean(1, keepdim=True) + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


_NORMS = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
    "LN": LayerNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """The norm called ``norm`` for ``out_channels`` channels.

    Args:
        norm: "BN", "SyncBN", "FrozenBN", "GN" (32 groups), "LN" (over channels), or a callable
            that takes the number of channels. None and "" mean no norm: the result is None.

    Raises:
        NotImplementedError: for the batch norms that Detectron2 alone has.
        ValueError: for an unknown name.
    """
    if norm is None or norm == "":
        return None
    if callable(norm):
        return norm(out_channels)
    if norm in ("naiveSyncBN", "naiveSyncBN_N"):
        raise NotImplementedError(f"norm {norm!r} is not in detectron2_lite; install Detectron2")
    if norm not in _NORMS:
        raise ValueError(f"unknown norm {norm!r}: use one of {', '.join(_NORMS)} or ''")
    return _NORMS[norm](out_channels)
