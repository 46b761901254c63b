"""Survive a CUDA out-of-memory error where the CPU can do the same work."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

__all__ = ["retry_if_cuda_oom"]


def retry_if_cuda_oom(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``func`` with two retries on CUDA out of memory: cache emptied, then on the CPU.

    The last try copies tensor arguments (not those inside lists or objects) to the CPU; its
    result stays there, so ``func`` has to cope with CPU input and the caller with CPU output.
    """

    def to_cpu(value: Any) -> Any:
        return (
            value.cpu() if getattr(getattr(value, "device", None), "type", "") == "cuda" else value
        )

    @wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        for _ in range(2):
            try:
                return func(*args, **kwargs)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
        logging.getLogger(__name__).info("CUDA out of memory: running %s on the CPU", func)
        return func(*map(to_cpu, args), **{k: to_cpu(v) for k, v in kwargs.items()})

    return wrapped
