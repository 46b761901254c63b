"""Start one process per GPU, or several on the CPU."""

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Run ``main_func(*args)`` in every process of a distributed run.

    It is to be called once on every machine. A world of one process is this process itself.

    Args:
        main_func: importable function, since processes are spawned.
        num_gpus_per_machine: processes per machine; without GPUs they work on the CPU by gloo.
        num_machines: number of machines.
        machine_rank: index of this machine.
        dist_url: address of machine 0 as ``tcp://host:port``; ``"auto"`` finds a free port where
            there is one machine.
        args: arguments of ``main_func``.
        timeout: of the collective operations.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if num_machines > 1 and dist_url in (None, "auto"):
        raise ValueError(f"dist_url={dist_url!r}: {num_machines} machines need tcp://host:port")
    if dist_url in (None, "auto"):
        dist_url = f"tcp://127.0.0.1:{_find_free_port()}"
    mp.spawn(
        _run_worker,
        nprocs=num_gpus_per_machine,
        args=(
            main_func,
            world_size,
            num_gpus_per_machine,
            machine_rank,
            dist_url,
            args,
            timeout,
        ),
        daemon=False,  # data loaders start processes of their own
    )


def _find_free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _run_worker(
    local_rank: int,
    main_func: Callable[..., Any],
    world_size: int,
    num_gpus_per_machine: int,
    machine_rank: int,
    dist_url: str,
    args: tuple[Any, ...],
    timeout: timedelta,
) -> None:
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        if num_gpus_per_machine > torch.cuda.device_count():
            raise ValueError(
                f"{num_gpus_per_machine} GPUs asked for, {torch.cuda.device_count()} are here"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group(
        backend="nccl" if has_gpu else "gloo",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * num_gpus_per_machine + local_rank,
        timeout=timeout,
    )
    comm.create_local_process_group(num_gpus_per_machine)
    comm.synchronize()
    main_func(*args)
    dist.destroy_process_group()
