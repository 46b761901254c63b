"""What Detectron2's engine has not got: a trainer for any device, exact resume, checks, reports."""

from .checks import check_config, check_data, check_output_dir, choose_device
from .data import ResumableSampler, build_train_loader
from .hooks import IterationSeed, MemoryStats
from .progress import ProgressPrinter
from .report import write_pictures
from .run import (
    keep_old_config,
    launch_anyhow,
    resume_from,
    resume_point,
    start_seed,
    unused_path,
)
from .trainer import Trainer

__all__ = [
    "IterationSeed",
    "MemoryStats",
    "ProgressPrinter",
    "ResumableSampler",
    "Trainer",
    "build_train_loader",
    "check_config",
    "check_data",
    "check_output_dir",
    "choose_device",
    "keep_old_config",
    "launch_anyhow",
    "resume_from",
    "resume_point",
    "start_seed",
    "unused_path",
    "write_pictures",
]
