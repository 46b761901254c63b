#!/usr/bin/env python
"""Speed of the trunk beside its peers, measured interleaved in one run.

Each case builds our trunk and a peer's of the same size (hiera-transformer, timm) with random
weights on the same device, runs them in turns and prints the median time of each and the ratio
peer / ours: above 1.0 ours is faster. Peers come from `pip install hiera-transformer timm`.

Example:
    python benchmarks/trunk.py --repeats 9
    python benchmarks/trunk.py --case infer1024 --device cuda --dtype bf16
"""

import argparse
import contextlib
import platform
import statistics
import time
import warnings
from collections.abc import Callable

import torch

from hiera_det.modeling.classifier import build_classifier
from hiera_det.modeling.variants import build_hiera

warnings.filterwarnings("ignore", category=FutureWarning)  # of the peers' imports


def official(name: str) -> torch.nn.Module:
    import hiera

    return getattr(hiera, name)(pretrained=False)


def timm_model(name: str, **kwargs) -> torch.nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, **kwargs)


def forward_features(model: torch.nn.Module) -> Callable:
    return model.forward_features


def ours_last(model: torch.nn.Module) -> Callable:
    """The last map, as timm's forward_features returns it."""
    return lambda x: model(x)[-1]


# name -> (what, image side, batch, train, ours, {peer: model}, entry point of ours, of the peers)
CASES = {
    "infer224": dict(
        title="B, classification forward",
        size=224,
        batch=8,
        train=False,
        ours=lambda: build_classifier("hiera_b"),
        peers={
            "hiera-transformer": lambda: official("hiera_base_224"),
            "timm": lambda: timm_model("hiera_base_224"),
        },
        entry=lambda m: m,
        peer_entry=lambda m: m,
    ),
    "infer1024": dict(
        title="SAM 2 B+, features",
        size=1024,
        batch=1,
        train=False,
        ours=lambda: build_hiera("sam2_hiera_bplus"),
        peers={"timm": lambda: timm_model("sam2_hiera_base_plus", num_classes=0)},
        entry=ours_last,
        peer_entry=forward_features,
    ),
    "train512": dict(
        title="SAM 2 B+, forward and backward",
        size=512,
        batch=2,
        train=True,
        ours=lambda: build_hiera("sam2_hiera_bplus"),
        peers={"timm": lambda: timm_model("sam2_hiera_base_plus", num_classes=0)},
        entry=ours_last,
        peer_entry=forward_features,
    ),
}


def run_case(name: str, repeats: int, device: str, dtype: torch.dtype) -> list[str]:
    case = CASES[name]
    models = {"hiera_det": case["ours"]()} | {k: v() for k, v in case["peers"].items()}
    images = torch.randn(case["batch"], 3, case["size"], case["size"], device=device)
    amp = torch.autocast(device, dtype) if dtype != torch.float32 else contextlib.nullcontext()
    calls = {}
    for key, model in models.items():
        model.to(device).train(case["train"])
        calls[key] = (case["entry"] if key == "hiera_det" else case["peer_entry"])(model)

    def step(key: str) -> float:
        sync = torch.cuda.synchronize if device == "cuda" else (lambda: None)
        sync()
        start = time.perf_counter()
        with torch.set_grad_enabled(case["train"]), amp:
            out = calls[key](images)
            if case["train"]:
                out.float().square().mean().backward()
        sync()
        elapsed = time.perf_counter() - start
        models[key].zero_grad(set_to_none=True)
        return elapsed

    times: dict[str, list[float]] = {key: [] for key in models}
    for i in range(repeats + 1):
        for key in models:
            elapsed = step(key)
            if i:  # the first round warms up
                times[key].append(elapsed)
    median = {key: statistics.median(v) for key, v in times.items()}
    return [
        f"| {name} | {case['title']} | {case['batch']} x {case['size']} px | "
        f"{median['hiera_det'] * 1e3:.0f} ms | {peer} {median[peer] * 1e3:.0f} ms | "
        f"{median[peer] / median['hiera_det']:.2f} |"
        for peer in case["peers"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=list(CASES), nargs="*", default=list(CASES))
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    args = parser.parse_args()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    machine = (
        torch.cuda.get_device_name()
        if args.device == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    print(f"torch {torch.__version__}, {machine}, {args.dtype}, median of {args.repeats}")
    print("| case | what | input | hiera_det | peer | ratio |\n|---|---|---|---|---|---|")
    for name in args.case:
        for row in run_case(name, args.repeats, args.device, dtype):
            print(row, flush=True)


if __name__ == "__main__":
    main()
