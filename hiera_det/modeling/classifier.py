"""Hiera with its ImageNet head, as published: mean over tokens, LayerNorm, linear."""

from typing import Any

from torch import Tensor, nn

from .hiera import Hiera
from .variants import variant_kwargs

__all__ = ["HieraClassifier", "build_classifier"]


class Head(nn.Module):
    """The linear layer under its official name, `head.projection`."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        self.projection = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x)


class HieraClassifier(Hiera):
    """images (B, 3, H, W) to logits (B, num_classes)."""

    def __init__(self, num_classes: int = 1000, **kwargs: Any):
        """
        Args:
            num_classes: classes.
            kwargs: those of `Hiera`.
        """
        super().__init__(**kwargs)
        dim = self.embed_dims[-1]
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = Head(dim, num_classes)
        self.norm.apply(self._init_weights)
        self.head.apply(self._init_weights)
        self.head.projection.weight.data.mul_(0.001)
        self.head.projection.bias.data.mul_(0.001)

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]  # not the trunk's maps
        outputs, _ = self.forward_units(images)
        return self.head(self.norm(outputs[-1].mean(dim=(1, 2))))  # (B, U, n, C) -> (B, C)


def build_classifier(variant: str, num_classes: int = 1000, **kwargs: Any) -> HieraClassifier:
    """A classifier of a named size; keyword arguments of `Hiera` override the table.

    Raises:
        ValueError: the name is not in the table.
    """
    return HieraClassifier(num_classes, **(variant_kwargs(variant) | kwargs))
