"""The instances of one image, as columns of equal length."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Instances"]


class Instances:
    """Fields (boxes, classes, scores, masks, …) of the instances in one image.

    Fields are set and read as attributes and have the same length N; indexing selects rows of all
    of them. Values are tensors, lists, or anything with ``len`` and indexing; those that are to be
    concatenated offer a static ``cat``.

    Args:
        image_size: (height, width) in pixels.
        **kwargs: fields.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any):
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        elif name == "image_size":
            raise AttributeError("image_size of Instances is fixed; make new Instances instead")
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        # Only called for what is no real attribute. A copy or unpickling asks before _fields is.
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Cannot find field {name!r} in the given Instances!")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set a field. ValueError if its length differs from that of the others."""
        if self._fields and len(value) != len(self):
            raise ValueError(f"field {name!r} has length {len(value)}, the Instances {len(self)}")
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def get(self, name: str) -> Any:
        return self._fields[name]

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """The fields by name; changing the dict changes the Instances."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """New Instances with ``.to(*args, **kwargs)`` called on the fields that have it."""
        moved = Instances(self._image_size)
        for name, value in self._fields.items():
            moved.set(name, value.to(*args, **kwargs) if hasattr(value, "to") else value)
        return moved

    def __getitem__(self, item: int | slice | Tensor) -> "Instances":
        """Rows ``item`` of all fields; an int gives Instances of length 1."""
        if isinstance(item, int):
            if not -len(self) <= item < len(self):
                raise IndexError(f"index {item} is out of range for {len(self)} instances")
            item = slice(item, item + 1 or None)
        rows = Instances(self._image_size)
        for name, value in self._fields.items():
            rows.set(name, value[item])
        return rows

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without fields have no length")

    def __iter__(self):
        raise NotImplementedError("Instances are not iterable; index them")

    @staticmethod
    def cat(instance_lists: Sequence["Instances"]) -> "Instances":
        """All instances of a list one after the other.

        Args:
            instance_lists: Instances of one image size and with the same fields.
        """
        if not instance_lists:
            raise ValueError("Instances.cat of an empty list")
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        sizes = {tuple(i.image_size) for i in instance_lists}
        if len(sizes) > 1:
            raise ValueError(f"Instances.cat of different image sizes: {sorted(sizes)}")
        joined = Instances(first.image_size)
        for name, value in first.get_fields().items():
            values = [i.get(name) for i in instance_lists]
            if isinstance(value, Tensor):
                joined.set(name, torch.cat(values, dim=0))
            elif isinstance(value, list):
                joined.set(name, [row for rows in values for row in rows])
            elif hasattr(type(value), "cat"):
                joined.set(name, type(value).cat(values))
            else:
                raise ValueError(f"field {name!r}: cannot concatenate {type(value).__name__}")
        return joined

    def __repr__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return (
            f"Instances(num_instances={len(self) if self._fields else 0}, image_height={height}, "
            f"image_width={width}, fields=[{fields}])"
        )
