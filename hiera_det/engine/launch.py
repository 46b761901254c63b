"""Processes of a run: one, Detectron2's launch, or torchrun; and how they end."""

import datetime
import errno
import linecache
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import launch
from detectron2.utils import comm

from hiera_det.checkpoint.download import DownloadError

from .trainer import NonFiniteError, Stopped

__all__ = ["launch_run", "report_error", "under_torchrun"]

logger = logging.getLogger(__name__)

TIMEOUT = datetime.timedelta(minutes=30)  # of a collective operation, evaluation on rank 0 too
GRACE = 15.0  # s that the others have to leave after a process failed
SPEAK = 3.0  # s in which the main process tells what all know, before others tell it too


def under_torchrun() -> bool:
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch_run(main: Callable[[Any], None], args, device: str) -> int:
    """Runs main(args) in all processes of the job, however it was started.

    Under torchrun this process is one of them already. Otherwise Detectron2's `launch` starts
    `args.num_gpus` processes; on the CPU they share it over gloo. A process that fails says why and
    ends at once, and the job with it: it does not wait for the others.

    Args:
        main: importable, since processes are spawned.
        args: with num_gpus, num_machines, machine_rank, dist_url, traceback.
        device: `train.device`. With "cpu" no process sees a GPU.

    Returns:
        The exit status; 0 if all went well.
    """
    if device == "cpu":  # or Detectron2 and torchrun would choose NCCL on a machine with GPUs
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if under_torchrun():
        _join_torchrun(main, args, device)
        return 0
    if args.num_gpus * args.num_machines <= 1:
        main(args)
        return 0
    # The default address has one fixed port a user; on one machine any free one serves.
    one_machine = args.num_machines == 1
    signal.signal(signal.SIGTERM, _pass_on)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    try:
        launch(
            _guarded,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url="auto" if one_machine else args.dist_url,
            args=(main, args),
            timeout=TIMEOUT,
        )
    except mp.ProcessExitedException as error:  # it has said why
        return error.exit_code if error.exit_code > 0 else 128 - error.exit_code
    except KeyboardInterrupt:  # the terminal has told the processes too
        for process in mp.active_children():
            process.join()
        return 130
    return 0


def _end_with_the_first() -> None:
    """Kills the processes that are still there a while after one of them failed.

    They are told to end, but on a GPU one hears nothing while it waits for the one that is gone.
    """
    processes: set[Any] = set()
    while True:
        processes |= set(mp.active_children())
        if any(process.exitcode for process in processes):
            break
        time.sleep(0.5)
    time.sleep(GRACE)
    for process in processes:
        if process.is_alive():
            process.kill()


def _pass_on(number: int, frame: Any) -> None:
    """Hands a signal on to the processes, and waits for them to write their checkpoint."""
    children = mp.active_children()
    for process in children:
        process.terminate()
    for process in children:
        process.join()
    raise SystemExit(128 + number)


def _join_torchrun(main: Callable[[Any], None], args, device: str) -> None:
    local_rank = int(os.environ["LOCAL_RANK"])
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
    _guarded(main, args)
    dist.destroy_process_group()


def _guarded(main: Callable[[Any], None], args) -> None:
    """main(args); a process of several that fails reports it and is gone.

    Leaving in the usual way would wait in the process group's destructor for the others, which wait
    for this one.
    """
    try:
        main(args)
    except Stopped as stop:
        # All processes leave after the same step. The first to leave with an error status ends the
        # others, so that is for the main process to do, when its checkpoint is written.
        _leave(stop.code if comm.is_main_process() else 0)
    except SystemExit as stop:
        _leave(stop.code if isinstance(stop.code, int) else 1)
    except BaseException as error:
        _await_turn(error)
        _leave(report_error(error, args.traceback))


def _await_turn(error: BaseException) -> None:
    """Waits, so that what ended the job is told once: whoever speaks ends the other processes.

    The main process speaks first, if it has something to say; then the others; last those that
    were left behind by another's end, or have left the word to another.
    """
    follows = isinstance(error, NonFiniteError) and not error.is_mine
    follows |= isinstance(error, RuntimeError) and _of_communication(error)
    if follows:
        time.sleep(2 * SPEAK + GRACE)
    elif not comm.is_main_process() and not isinstance(error, NonFiniteError | KeyboardInterrupt):
        time.sleep(SPEAK)


def _of_communication(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _leave(status: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


# ------------------------------------------------------------------------------------ errors
USER_ERRORS = (
    ValueError,
    FileNotFoundError,
    FileExistsError,
    DownloadError,
    ImportError,
    FloatingPointError,
)
OURS = ("hiera_det", "pretrain", "detectron2")


def report_error(error: BaseException, show_traceback: bool = False) -> int:
    """Prints what ended the run to stderr.

    A mistake of the user's, or of the machine's, is one line, `error: what, where, fix`; a bug
    keeps its traceback.

    Returns:
        The exit status: 2 for one line, 130 for Ctrl-C, 1 for a bug.
    """
    if isinstance(error, KeyboardInterrupt):
        return 130
    rank = f" (rank {comm.get_rank()})" if comm.get_world_size() > 1 else ""
    text = _out_of_memory(error) or _user_text(error)
    if text is None or show_traceback:
        traceback.print_exception(error)
    if text is not None:
        print(f"error{rank}: {text}", file=sys.stderr, flush=True)
        return 2
    return 1


def _user_text(error: BaseException) -> str | None:
    """The message of an error that is the user's to mend; None for a bug.

    That is one which our code raises on purpose, by a `raise` of its own, or OmegaConf for a value
    that is not set: not one that comes up from the depths of torch or numpy, nor from a slip of
    ours such as the maximum of nothing.
    """
    from omegaconf.errors import OmegaConfBaseException

    from .checkpointer import DiskFullError

    if isinstance(error, OmegaConfBaseException):
        return _config_text(str(error).splitlines()[0], error.full_key)
    if isinstance(error, DiskFullError):
        return str(error.strerror)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            f"{error.filename or 'the folder of the run'}: the disk is full. The checkpoints that "
            "were there are whole: make room, and go on with --resume"
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if str(error).startswith("Caught "):
        return _worker_text(error)
    if not isinstance(error, USER_ERRORS):
        return None
    return str(error) if _is_raised_by_us(error) else None


def _config_text(text: str, key: str | None) -> str | None:
    """OmegaConf's message for people; None where a resolver failed by a bug of ours."""
    found = re.fullmatch(r"(\w+)(?: raised)? while resolving interpolation: (.*)", text)
    if found:
        text = found[2]
        if found[1] not in ("MissingMandatoryValue", "ValueError", "FileNotFoundError"):
            return None
    if text.startswith("Missing mandatory value"):
        return f"{text}. It has no default: give it as key=value"
    return f"{text} (config key {key})" if key else text


def _worker_text(error: BaseException) -> str | None:
    """The message of a mistake that a loader's worker met, such as a damaged image.

    torch raises an error of the same type here, whose message is the whole traceback there.
    """
    found = re.match(r"Caught (\w+) in DataLoader worker process", str(error))
    places = re.findall(r'^ *File "(.+)", line (\d+), in ', str(error), flags=re.MULTILINE)
    if not found or not places:
        return None
    text = str(error).rsplit(f"{found[1]}: ", 1)[-1].strip()
    if isinstance(error, OSError):
        return text
    path, line_number = places[-1]
    modules = [sys.modules[name] for name in OURS if name in sys.modules]
    packages = [folder for module in modules for folder in module.__path__]
    is_ours = any(path.startswith(package + os.sep) for package in packages)
    is_raise = linecache.getline(path, int(line_number)).lstrip().startswith("raise")
    return text if isinstance(error, USER_ERRORS) and is_ours and is_raise else None


def _is_raised_by_us(error: BaseException) -> bool:
    """Whether the error comes from a `raise` statement in a module of ours."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return False
    frame, line_number = frames[-1]
    # By module, not by path: a virtual environment may lie inside a folder called hiera_det.
    if frame.f_globals.get("__name__", "").split(".")[0] not in OURS:
        return False
    line = linecache.getline(frame.f_code.co_filename, line_number).strip()
    starts = ("raise", "import ", "from ") if isinstance(error, ImportError) else ("raise",)
    return line.startswith(starts) or not line  # without the source, it is taken for one


def _out_of_memory(error: BaseException) -> str | None:
    is_cuda = isinstance(error, torch.cuda.OutOfMemoryError)
    is_cpu = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
    if not is_cuda and not is_cpu:
        return None
    where = "GPU" if is_cuda else "machine"
    text = (str(error) or "MemoryError").splitlines()[0]
    return (
        f"the {where} is out of memory ({text:.160}). What helps, in this "
        "order: train.images_per_process=1 (the same batch in smaller parts), "
        "model.backbone.bottom_up.trunk.act_checkpoint=True (model.act_checkpoint=True in "
        "pretraining), train.amp.enabled=True, dataloader.image_size=768"
    )
