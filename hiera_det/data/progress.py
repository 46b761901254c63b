"""A progress bar for what takes long, where there is a terminal."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

__all__ = ["progress"]

T = TypeVar("T")


def progress(items: Iterable[T], what: str) -> Iterator[T]:
    """The items, while a bar called `what` is drawn to stderr if that is a terminal."""
    yield from tqdm(items, desc=what, unit="", disable=None)
