"""Processes of a distributed run. Everything also works, and costs nothing, with one process."""

import functools
import os
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_LOCAL_PROCESS_GROUP: dist.ProcessGroup | None = None


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes on all machines."""
    return dist.get_world_size() if _active() else 1


def get_rank() -> int:
    """Index of this process among all."""
    return dist.get_rank() if _active() else 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Make the groups of processes that share a machine; every process has to call it, once.

    Raises:
        ValueError: the world is not a multiple of ``num_workers_per_machine``.
    """
    global _LOCAL_PROCESS_GROUP
    if _LOCAL_PROCESS_GROUP is not None:
        raise RuntimeError("create_local_process_group() was called before in this process")
    world = get_world_size()
    if world % num_workers_per_machine:
        raise ValueError(
            f"{world} processes do not divide into machines of {num_workers_per_machine}"
        )
    for first in range(0, world, num_workers_per_machine):
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)
        if get_rank() in ranks:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group() -> dist.ProcessGroup:
    """Group of the processes on this machine.

    Raises:
        AssertionError: ``create_local_process_group`` was not called.
    """
    assert _LOCAL_PROCESS_GROUP is not None, (
        "No local process group. Start processes with detectron2.engine.launch(), or call "
        "comm.create_local_process_group(num_workers_per_machine) after init_process_group()"
    )
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Index of this process on its machine; torchrun's ``LOCAL_RANK`` where no group was made."""
    if not _active():
        return 0
    if _LOCAL_PROCESS_GROUP is None and "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    return dist.get_rank(group=get_local_process_group())


def is_main_process() -> bool:
    """True in the one process that writes files."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process is here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        # Without device_ids, NCCL guesses the device from the global rank.
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.lru_cache
def _object_group() -> dist.ProcessGroup:
    """Gloo group of all processes: pickled objects go over the CPU whatever the backend is."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Collect picklable ``data`` of every process, in rank order, in every process."""
    if get_world_size() == 1:
        return [data]
    group = group or _object_group()
    output = [None] * dist.get_world_size(group)
    dist.all_gather_object(output, data, group=group)
    return output


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Collect picklable ``data`` of every process in process ``dst``; ``[]`` in the others."""
    if get_world_size() == 1:
        return [data]
    group = group or _object_group()
    output = [None] * dist.get_world_size(group) if get_rank() == dst else None
    dist.gather_object(data, output, dst=dst, group=group)
    return output or []


def shared_random_seed() -> int:
    """Return one random int, the same in every process, drawn from rank 0's numpy state."""
    return all_gather(np.random.randint(2**31))[0]
