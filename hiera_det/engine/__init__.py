"""The engine: one loop, one step, for detection, pretraining and fine-tuning.

run          config and folder of a run; `fit`, the loop with its list of hooks
trainer      the step: accumulation, autocast, clipping, agreement that all is finite
hooks        seeds, memory, averaged weights, evaluation, signals
checkpointer files that are whole whatever happens     resume   where a run goes on
launch       processes, and how they end               checks   what ruins a run, found before it
detection    a detector's losses and evaluation
"""

from .checks import check_config, check_data, check_is_detector, choose_device
from .hooks import EMA, Evaluation, IterationSeed, MemoryStats, StopOnSignal
from .launch import launch_run, report_error
from .resume import check_output_dir, keep_old_config, last_checkpoint, start_seed, unused_path
from .run import fit, load_run_config, open_run
from .trainer import NonFiniteError, Stopped, Trainer

__all__ = [
    "EMA",
    "Evaluation",
    "IterationSeed",
    "MemoryStats",
    "NonFiniteError",
    "StopOnSignal",
    "Stopped",
    "Trainer",
    "check_config",
    "check_data",
    "check_is_detector",
    "check_output_dir",
    "choose_device",
    "fit",
    "keep_old_config",
    "last_checkpoint",
    "launch_run",
    "load_run_config",
    "open_run",
    "report_error",
    "start_seed",
    "unused_path",
]
