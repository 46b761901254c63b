"""Resume: where a run stands, and that what goes on is the same run."""

import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from hiera_det.checkpoint import read_state

from .hooks import AveragedWeights

__all__ = [
    "Progress",
    "RunFacts",
    "check_output_dir",
    "drop_torn_line",
    "keep_old_config",
    "last_checkpoint",
    "put_back_config",
    "restore",
    "start_seed",
    "unused_path",
]

logger = logging.getLogger(__name__)

WEIGHTS_ALONE = ("model_best.pth", "model_ema.pth")  # of a run, which cannot go on from them
PROGRESS = ("images_seen", "total_batch_size", "num_processes", "max_iter")


def start_seed(cfg: DictConfig) -> int:
    """`train.seed`, or, where it is negative, a random one that all processes share."""
    seed = cfg.train.get("seed", -1)
    return comm.shared_random_seed() if seed is None or seed < 0 else int(seed)


# ------------------------------------------------------------------------------------ the folder
def check_output_dir(output_dir: str, resume: bool) -> None:
    """A new run does not write into the folder of an old one.

    Raises:
        ValueError: the folder holds a run and `resume` is off.
        FileNotFoundError: `resume` is on and there is no run.
    """
    folder = Path(output_dir)
    old = [p.name for p in (*folder.glob("*.pth"), *folder.glob("metrics.json"))]
    started = old or (folder / "config.yaml").is_file()
    if resume and not started:
        raise FileNotFoundError(
            f"--resume: {folder} holds no run, so there is nothing to resume; leave --resume out "
            "to start, or set train.output_dir to the folder of the run"
        )
    if old and not resume:
        raise ValueError(
            f"train.output_dir={output_dir} already holds a run ({', '.join(sorted(old)[:3])}"
            f"{', …' if len(old) > 3 else ''}). Continue it with --resume, or keep it and choose "
            "another folder: train.output_dir=./output/another"
        )


def last_checkpoint(output_dir: str) -> Path | None:
    """The checkpoint that `--resume` goes on from; None for a run that ended before its first.

    A run that was killed between its first checkpoint and the note that it is the last goes on from
    the one of the highest iteration: checkpoints are whole as soon as they are there.

    Raises:
        FileNotFoundError: `last_checkpoint` names a file that is not there.
        ValueError: there are checkpoints, but nothing says which is the last.
    """
    folder = Path(output_dir)
    others = sorted(p.name for p in folder.glob("*.pth") if p.name not in WEIGHTS_ALONE)
    tag = folder / "last_checkpoint"
    if not tag.is_file():
        numbered = [name for name in others if re.fullmatch(r"model_\d{7}\.pth", name)]
        if numbered:
            return folder / numbered[-1]
        if others:
            raise ValueError(
                f"{folder} holds {', '.join(others[:3])} but no last_checkpoint; write the name to "
                "resume from into a file of that name"
            )
        return None
    path = folder / tag.read_text().strip()
    if not path.is_file():
        raise FileNotFoundError(
            f"{tag} names {path.name}, which is not there; of {others} write the name to resume "
            "from into that file"
        )
    return path


def keep_old_config(output_dir: str) -> None:
    """Keeps the config.yaml that a resumed run is about to replace, as config.1.yaml and so on."""
    config = Path(output_dir) / "config.yaml"
    if comm.is_main_process() and config.is_file():
        shutil.copy2(config, unused_path(config))


def put_back_config(output_dir: str) -> None:
    """Undoes `keep_old_config` and what was written since, where the run does not go on."""
    config = Path(output_dir) / "config.yaml"
    kept = [p for p in config.parent.glob("config.*.yaml") if p.name.split(".")[1].isdigit()]
    if comm.is_main_process() and kept:
        os.replace(max(kept, key=lambda p: int(p.name.split(".")[1])), config)


def unused_path(path: Path) -> Path:
    """`path`, or where it exists the first of path.1, path.2, … that does not."""
    number = 0
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return candidate


def drop_torn_line(path: Path) -> None:
    """Cuts off a last line without an end, which a process that was killed has left in a file."""
    if not path.is_file():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


# ------------------------------------------------------------------------------------ progress
@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    The place in the data is the number of images seen, over all processes: it means the same
    whatever the batch and the number of processes are.
    """

    path: Path | None
    state: dict[str, Any]
    iteration: int  # that comes next
    images_seen: int
    seed: int

    @classmethod
    def start(cls, seed: int) -> "Progress":
        return cls(None, {}, 0, 0, seed)

    @classmethod
    def read(cls, path: Path, batch: int, num_processes: int, max_iter: int) -> "Progress":
        """Reads a checkpoint, for a run that goes on with this batch, processes and `max_iter`.

        Where they changed, the run goes on by images seen, and the log says what follows.

        Raises:
            ValueError: the file is damaged or of no training run, or nothing is left to train.
        """
        state = read_state(str(path))
        trainer = state.get("trainer")
        if not isinstance(trainer, Mapping) or "iteration" not in trainer:
            raise ValueError(
                f"{path} holds weights but no state of a run, so --resume cannot go on from it; "
                "start one from these weights with train.init_checkpoint"
            )
        facts = state.get("hiera_det", {})
        old_batch = int(facts.get("total_batch_size", batch))
        done = int(trainer["iteration"]) + 1
        images_seen = int(facts.get("images_seen", done * old_batch))
        iteration = done
        if old_batch != batch:
            iteration = round(images_seen / batch)
            logger.warning(
                "dataloader.train.total_batch_size was %d and is %d: %d iterations with %d images "
                "are done, which are %d of the new ones; the run goes on with image %d",
                old_batch, batch, done, images_seen, iteration, images_seen,
            )  # fmt: skip
        old_processes = int(facts.get("num_processes", num_processes))
        if old_processes != num_processes:
            logger.warning(
                "the run had %d processes and has %d: it goes on with the same image, dealt out "
                "anew; augmentation and sampling are drawn by process, so losses will differ",
                old_processes, num_processes,
            )  # fmt: skip
        old_length = facts.get("max_iter")
        # with another batch of the same epochs the length follows, and the schedule is the same
        if old_length and abs(old_length * old_batch - max_iter * batch) > max(old_batch, batch):
            logger.warning(
                "train.max_iter was %d and is %d: the learning rate goes on as at %.0f %% of the "
                "schedule, it was at %.0f %%",
                old_length, max_iter, 100 * iteration / max_iter, 100 * done / old_length,
            )  # fmt: skip
        if iteration > max_iter:
            raise ValueError(
                f"{path} is of iteration {iteration}, past train.max_iter={max_iter}: nothing is "
                "left to train. Raise train.max_iter or train.epochs, or evaluate the checkpoint"
            )
        seed = trainer.get("hooks", {}).get("IterationSeed", {}).get("seed")
        seed = comm.shared_random_seed() if seed is None else int(seed)
        return cls(path, state, iteration, images_seen, seed)


class RunFacts:
    """What a checkpoint says of its run, under "hiera_det": numbers, strings and lists of them.

    A resumed run has to agree with the `facts` that it is given; the rest describes the model
    (config, names of the classes) and how far it is (images seen, batch, processes, length).
    """

    def __init__(
        self,
        facts: Mapping[str, Any],
        trainer: TrainerBase,
        progress: Mapping[str, int],
        described: Mapping[str, Any] | None = None,
    ):
        """
        Args:
            facts: what must not change between a run and its resumption.
            trainer: counts the iterations.
            progress: images_seen and iteration at the start, total_batch_size, num_processes,
                max_iter.
            described: what may change, for whoever uses the weights.
        """
        self.facts, self.trainer, self.progress = dict(facts), trainer, dict(progress)
        self.described = dict(described or {})

    def state_dict(self) -> dict[str, Any]:
        now = {key: self.progress[key] for key in PROGRESS}
        done = self.trainer.iter + 1 - self.progress["iteration"]
        now["images_seen"] += max(done, 0) * now["total_batch_size"]
        return self.described | self.facts | now

    def check(self, state: Mapping[str, Any], path: Path | None) -> None:
        """Compares the facts with those of a checkpoint.

        Raises:
            ValueError: the checkpoint says otherwise.
        """
        other = {k: (state[k], v) for k, v in self.facts.items() if k in state and state[k] != v}
        if other:
            text = ", ".join(f"{k} was {old} and is {new}" for k, (old, new) in other.items())
            raise ValueError(
                f"{path} is of another run: {text}. Resume with the values of that run, or start "
                "one with train.init_checkpoint and another train.output_dir"
            )


def restore(
    progress: Progress,
    model: nn.Module,
    trainer: TrainerBase,
    facts: RunFacts,
    ema: AveragedWeights | None = None,
) -> None:
    """Puts a checkpoint into model, trainer and average; the config's options stay.

    A checkpoint holds learning rate, betas and weight decay too, and would undo in silence what was
    overridden for the rest of the run.

    Raises:
        ValueError: another run, or another model; names what differs.
    """
    state, path = progress.state, progress.path
    facts.check(state.get("hiera_det", {}), path)
    own = model.state_dict()
    saved = {k.removeprefix("module."): v for k, v in state["model"].items()}
    wrong = [f"{k} is missing" for k in own if k not in saved]
    wrong += [f"{k} has no place" for k in saved if k not in own]
    wrong += [
        f"{k} is {tuple(v.shape)}, here {tuple(own[k].shape)}"
        for k, v in saved.items()
        if k in own and v.shape != own[k].shape
    ]
    if wrong:
        raise ValueError(
            f"{path} is of another model: {'; '.join(wrong[:3])}"
            f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}. Resume with the config of "
            "that run (its config.yaml), or start one from these weights with "
            "train.init_checkpoint and another train.output_dir"
        )
    model.load_state_dict(saved)
    _keep_options(state["trainer"]["optimizer"], trainer.optimizer, path)
    try:
        trainer.load_state_dict(state["trainer"])
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} does not fit the optimizer of this run: {error}") from error
    if ema is not None and "ema" in state:
        ema.load_state_dict(state["ema"])
    elif ema is not None:
        logger.warning("%s has no averaged weights: the average begins with its weights", path)
        ema.start()
    elif "ema" in state:
        logger.warning("%s has averaged weights; train.ema is off, so they end here", path)


def _keep_options(
    saved: Mapping[str, Any], optimizer: torch.optim.Optimizer, path: Path | None
) -> None:
    """Puts the options of an optimizer into the state that it is about to load.

    Before, not after: where a fused optimizer keeps its counters follows from the loaded options.

    Raises:
        ValueError: the state is of another optimizer, or of other groups.
    """
    groups, own_groups = saved["param_groups"], optimizer.param_groups
    sizes, own_sizes = ([len(g["params"]) for g in each] for each in (groups, own_groups))
    if sizes != own_sizes:
        raise ValueError(
            f"{path} does not fit the optimizer of this run: its groups have {sizes} parameters, "
            f"here {own_sizes}. Resume with the optimizer.params of that run, or start one from "
            "these weights with train.init_checkpoint and another train.output_dir"
        )
    for group, own_group in zip(groups, own_groups, strict=True):
        missing = ({"betas", "momentum"} & set(own_group)) - set(group)
        if missing:
            raise ValueError(
                f"{path} is of another optimizer, which had no {', '.join(missing)}: resume with "
                "the optimizer of that run"
            )
        options = {k: v for k, v in own_group.items() if k != "params"}
        _report_changed(group, options)
        group.update(options, initial_lr=options["lr"])  # what schedules multiply


def _report_changed(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    for key, now in own.items():
        was = saved.get("initial_lr" if key == "lr" else key)
        if was is not None and not _equal(was, now):
            logger.warning("%s of the checkpoint's optimizer was %s; it is %s now", key, was, now)


def _equal(a: Any, b: Any) -> bool:
    """Equality in which a list of a config is the tuple of a checkpoint."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return bool(torch.equal(torch.as_tensor(a), torch.as_tensor(b)))
    if hasattr(a, "__iter__") and hasattr(b, "__iter__") and not isinstance(a, str):
        return list(a) == list(b)
    return a == b
