"""Random augmentations: policies that look at an input and return a deterministic transform."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = ["AugInput", "Augmentation", "AugmentationList"]


class AugInput:
    """What an augmentation may look at, transformed in place as augmentations are applied.

    Args:
        image: (H, W) or (H, W, C), uint8 in 0..255 or float.
        boxes: (N, 4) float, XYXY in pixels, or None.
        sem_seg: (H, W) integer labels, or None.
    """

    def __init__(
        self,
        image: np.ndarray,
        *,
        boxes: np.ndarray | None = None,
        sem_seg: np.ndarray | None = None,
    ) -> None:
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
            raise ValueError(
                "AugInput needs a numpy image of (H, W) or (H, W, C), got "
                f"{type(image).__name__} of shape {getattr(image, 'shape', None)}"
            )
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply ``tfm`` to every field that is set. Boxes are neither clipped nor dropped."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)


class Augmentation:
    """A random policy. Subclasses define ``get_transform``.

    The parameter names of ``get_transform`` say which attributes of the input it wants, usually
    just ``image``.
    """

    def get_transform(self, *args: Any) -> Transform:
        """Draw from ``np.random`` and return the transform to apply."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_transform")

    def __call__(self, aug_input: AugInput) -> Transform:
        """Choose a transform for ``aug_input``, apply it in place, and return it.

        Raises:
            AttributeError: ``get_transform`` wants something that the input has not got.
        """
        tfm = self.get_transform(*self._arguments_from(aug_input))
        aug_input.transform(tfm)
        return tfm

    def _arguments_from(self, aug_input: AugInput) -> list[Any]:
        names = list(inspect.signature(self.get_transform).parameters)
        for name in names:
            if not hasattr(aug_input, name):
                raise AttributeError(
                    f"{type(self).__name__}.get_transform wants {name!r}, which a "
                    f"{type(aug_input).__name__} has not got"
                )
        return [getattr(aug_input, name) for name in names]

    def _rand_range(
        self, low: float = 1.0, high: float | None = None, size: int | None = None
    ) -> float | np.ndarray:
        """Uniform in [low, high), or in [0, low) when only ``low`` is given."""
        if high is None:
            low, high = 0.0, low
        return np.random.uniform(low, high, size)

    def __repr__(self) -> str:
        """The constructor call, without the arguments that have their default value."""
        shown = []
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name == "self":
                continue
            if not hasattr(self, name):
                return super().__repr__()
            value = getattr(self, name)
            if value is not parameter.default:
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__


class AugmentationList(Augmentation):
    """Apply augmentations and transforms one after the other; may itself be nested."""

    def __init__(self, augs: Sequence[Augmentation | Transform]) -> None:
        for aug in augs:
            if not isinstance(aug, (Augmentation, Transform)):
                raise TypeError(
                    f"expected an Augmentation or a Transform, got {type(aug).__name__}: {aug!r}"
                )
        self.augs = list(augs)

    def __call__(self, aug_input: AugInput) -> TransformList:
        tfms = []
        for aug in self.augs:
            if isinstance(aug, Transform):
                aug_input.transform(aug)
                tfms.append(aug)
            else:
                tfms.append(aug(aug_input))
        return TransformList(tfms)

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(repr, self.augs))}]"

    __str__ = __repr__
