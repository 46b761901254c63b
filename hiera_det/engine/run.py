"""Starting processes, and the few things around a run that Detectron2 leaves to its scripts."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from omegaconf import DictConfig

__all__ = [
    "keep_old_config",
    "launch_anyhow",
    "resume_from",
    "resume_point",
    "start_seed",
    "unused_path",
]

logger = logging.getLogger(__name__)


def launch_anyhow(main: Callable, args) -> None:
    """Runs main(args) in all processes of the job, however it was started.

    Under torchrun this process is one of them already. Otherwise Detectron2's `launch` starts
    `args.num_gpus` processes; without GPUs they share the CPU over gloo.
    """
    if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ:  # torchrun
        local_rank = int(os.environ["LOCAL_RANK"])
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank)
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        comm.synchronize()
        try:
            main(args)
        finally:
            dist.destroy_process_group()
        return
    # The default address has one fixed port a user; on one machine any free one serves.
    one_machine = args.num_machines == 1
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url="auto" if one_machine else args.dist_url,
        args=(args,),
    )


def start_seed(cfg: DictConfig) -> int:
    """`train.seed`, or, where it is negative, a random one that all processes share."""
    seed = cfg.train.get("seed", -1)
    return comm.shared_random_seed() if seed is None or seed < 0 else int(seed)


def resume_point(output_dir: str) -> tuple[str, int, int]:
    """The last checkpoint: (path, iteration that comes next, seed of the run).

    Raises:
        FileNotFoundError: `last_checkpoint` names a file that is not there.
    """
    name = (Path(output_dir) / "last_checkpoint").read_text().strip()
    path = Path(output_dir) / name
    if not path.is_file():
        others = sorted(p.name for p in Path(output_dir).glob("*.pth"))
        raise FileNotFoundError(
            f"{output_dir}/last_checkpoint names {name}, which is not there; of {others} write the "
            "name to resume from into that file"
        )
    # mmap: the tensors are not read
    trainer = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("trainer", {})
    seed = trainer.get("hooks", {}).get("IterationSeed", {}).get("seed")
    iteration = trainer.get("iteration", -1) + 1
    return str(path), iteration, comm.shared_random_seed() if seed is None else int(seed)


def resume_from(checkpointer: Checkpointer, path: str, optimizer: torch.optim.Optimizer) -> None:
    """Loads model, optimizer, hooks and iteration; the optimizer's options stay the config's.

    A checkpoint holds learning rate, betas and weight decay too, and would undo in silence what was
    overridden for the rest of the run.
    """
    options = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    checkpointer.load(path)
    for group, own in zip(optimizer.param_groups, options, strict=True):
        old = {key: group.get("initial_lr" if key == "lr" else key) for key in own}
        changed = {key: (old[key], own[key]) for key in own if old[key] not in (None, own[key])}
        for key, (was, now) in changed.items():
            logger.warning("%s of the checkpoint's optimizer was %s; it is %s now", key, was, now)
        group.update(own, initial_lr=own["lr"])  # what schedules multiply


def keep_old_config(output_dir: str) -> None:
    """Keeps the config.yaml that a resumed run is about to replace, as config.1.yaml and so on."""
    config = Path(output_dir) / "config.yaml"
    if comm.is_main_process() and config.is_file():
        shutil.copy2(config, unused_path(config))


def unused_path(path: Path) -> Path:
    """`path`, or where it exists the first of path.1, path.2, … that does not."""
    number = 0
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return candidate
