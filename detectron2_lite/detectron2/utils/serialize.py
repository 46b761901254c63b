"""Send callables that ``pickle`` refuses (lambdas, closures) to other processes."""

import pickle
from typing import Any

import cloudpickle

__all__ = ["PicklableWrapper"]


class PicklableWrapper:
    """Wrap a callable so that it pickles by cloudpickle; it calls and reads like the original."""

    def __init__(self, obj: Any) -> None:
        # A wrapper within a wrapper would only cost a call.
        self._obj = obj._obj if isinstance(obj, PicklableWrapper) else obj

    def __reduce__(self) -> tuple[Any, ...]:
        return _unwrapped, (cloudpickle.dumps(self._obj),)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._obj(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_obj":  # not set yet: without this, the next line would recurse for ever
            raise AttributeError(name)
        return getattr(self._obj, name)


def _unwrapped(payload: bytes) -> PicklableWrapper:
    return PicklableWrapper(pickle.loads(payload))
