"""What a bug report needs to know of the machine and the installation."""

import importlib
import os
import platform
import sys

import detectron2
import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]


def collect_env_info() -> str:
    """Table of versions, of where ``detectron2`` comes from, and of the GPUs."""
    where = os.path.dirname(detectron2.__file__)
    rows = [
        ("sys.platform", sys.platform),
        ("Python", platform.python_version()),
        ("detectron2", f"{detectron2.__version__} @{where}"),
    ]
    for name in ("torch", "torchvision", "numpy", "PIL", "fvcore", "iopath"):
        try:
            rows.append((name, importlib.import_module(name).__version__))
        except ImportError:
            rows.append((name, "not installed"))
    rows.append(("CUDA of torch", torch.version.cuda or "none"))
    for index in range(torch.cuda.device_count()):
        rows.append((f"GPU {index}", torch.cuda.get_device_name(index)))
    if not torch.cuda.is_available():
        rows.append(("GPU", "none available"))
    return tabulate(rows)
