"""What Detectron2's engine has not got: a trainer for any device, exact resume, checks, reports."""

from hiera_det.data.loaders import ResumableSampler, build_train_loader
from hiera_det.report.pictures import write_pictures
from hiera_det.report.progress import ProgressPrinter

from .checks import check_config, check_data, check_output_dir, choose_device
from .hooks import IterationSeed, MemoryStats
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
