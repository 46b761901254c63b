#!/usr/bin/env python
"""Time and memory of a pretraining step beside hiera-transformer's own MAE, in one run.

A step is forward, backward and AdamW on the same random images at 224 px with 60 % masked. The two
take turns; the medians are printed, and peer / ours: above 1 ours is faster, or takes less.
Memory is what a step adds to the process at its peak, each model in a process of its own; on a GPU
it is the peak that PyTorch allocated.
"""

import argparse
import multiprocessing
import platform
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch

from pretrain.mae import build_mae

EXAMPLES = """
Example:
  pip install hiera-transformer timm
  python benchmarks/mae.py --batch-size 16 --repeats 9
"""
MODELS = {  # ours: hiera-transformer's
    "hiera_t": "mae_hiera_tiny_224",
    "hiera_b": "mae_hiera_base_224",
    "hiera_bplus": "mae_hiera_base_plus_224",
    "hiera_l": "mae_hiera_large_224",
}
SIDES = ("hiera_det", "hiera-transformer")


def build(side: str, variant: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if side == "hiera_det":
        return build_mae(variant)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports
        from hiera import hiera_mae
    return getattr(hiera_mae, MODELS[variant])()


def make_step(side: str, args: argparse.Namespace) -> Callable[[], None]:
    """A function that takes one step."""
    model = build(side, args.variant).to(args.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95))
    images = torch.randn(args.batch_size, 3, 224, 224, device=args.device)
    device_type = torch.device(args.device).type

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device_type, torch.bfloat16, enabled=args.dtype == "bf16"):
            loss = model(images)[0]
        loss.backward()
        optimizer.step()
        if device_type == "cuda":
            torch.cuda.synchronize()

    return step


def peak_memory(side: str, args: argparse.Namespace) -> float:
    """MiB that two steps add at their peak. To be called in a process of its own."""
    step = make_step(side, args)
    if torch.device(args.device).type == "cuda":
        before = torch.cuda.memory_allocated()
        step(), step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes on a Mac, else KiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(), step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


def benchmark(args: argparse.Namespace) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds and MiB of a step, by side."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = {side: pool.apply(peak_memory, (side, args)) for side in SIDES}
    steps = {side: make_step(side, args) for side in SIDES}
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(args.repeats + 1):  # the first round warms up
        for side, step in steps.items():
            start = time.perf_counter()
            step()
            times[side].append(time.perf_counter() - start)
    return {side: statistics.median(values[1:]) for side, values in times.items()}, memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--variant", choices=list(MODELS), default="hiera_b")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    args = parser.parse_args()
    seconds, memory = benchmark(args)
    machine = (
        torch.cuda.get_device_name()
        if torch.device(args.device).type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    print(f"{args.variant}, batch of {args.batch_size}, {args.dtype}, torch {torch.__version__}, "
          f"{machine}, median of {args.repeats}")  # fmt: skip
    ours, peer = SIDES
    for what, values, unit in (("time", seconds, "s"), ("memory", memory, "MiB")):
        print(
            f"{what} of a step: {values[ours]:.4g} {unit} {ours}, {values[peer]:.4g} {unit} "
            f"{peer}: {values[peer] / values[ours]:.2f}"
        )


if __name__ == "__main__":
    main()
