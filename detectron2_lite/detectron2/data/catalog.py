"""Names for datasets: functions that load them, and what is known about them."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

__all__ = ["DatasetCatalog", "Metadata", "MetadataCatalog"]


class _DatasetCatalog(dict):
    """name -> function without arguments that returns a list of dicts, one per image."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Register ``func``. It must return the same list, in the same order, at every call.

        Raises:
            ValueError: the name is taken.
        """
        if not callable(func):
            raise TypeError(f"dataset {name!r}: register a function, got {type(func).__name__}")
        if name in self:
            raise ValueError(
                f"dataset {name!r} is already registered; choose another name, "
                f"or call DatasetCatalog.remove({name!r}) first"
            )
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Load the dataset (at every call anew).

        Raises:
            KeyError: nothing is registered under ``name``.
        """
        if name not in self:
            raise KeyError(
                f"dataset {name!r} is not registered; register it with register_coco_instances. "
                f"Registered: {', '.join(self) or 'none'}"
            )
        return self[name]()

    def list(self) -> list[str]:
        return list(self.keys())

    def remove(self, name: str) -> None:
        self.pop(name)

    def __repr__(self) -> str:
        return f"DatasetCatalog(registered datasets: {', '.join(self)})"

    __str__ = __repr__


class Metadata(SimpleNamespace):
    """What is known about a dataset, as attributes.

    A value can be set once: setting another one later is an error, because parts of the program
    may have used the first.
    """

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        # reached only when the attribute does not exist
        raise AttributeError(
            f"metadata of dataset {self.name!r} has no {key!r}; it has "
            f"{', '.join(sorted(self.__dict__))}. Class names and ids are known once the dataset "
            "was loaded"
        )

    def __setattr__(self, key: str, val: Any) -> None:
        if key in self.__dict__ and self.__dict__[key] != val:
            raise ValueError(
                f"metadata {key!r} of dataset {self.name!r} is already {self.__dict__[key]!r} "
                f"and cannot become {val!r}; register the dataset under another name"
            )
        super().__setattr__(key, val)

    def set(self, **kwargs: Any) -> "Metadata":
        for key, val in kwargs.items():
            setattr(self, key, val)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        return self.__dict__.get(key, default)


class _MetadataCatalog(dict):
    """name -> Metadata; ``get`` makes an empty one for a new name."""

    def get(self, name: str) -> Metadata:
        if not name:
            raise ValueError("the name of a dataset is empty")
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> list[str]:
        return list(self.keys())

    def remove(self, name: str) -> None:
        self.pop(name)

    def __repr__(self) -> str:
        return f"MetadataCatalog(registered metadata: {', '.join(self)})"

    __str__ = __repr__


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
