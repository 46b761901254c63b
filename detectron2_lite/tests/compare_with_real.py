"""Compare detectron2_lite with a checkout of the real Detectron2 on this machine.

Example: python detectron2_lite/tests/compare_with_real.py --real ~/detectron2
Checkpoints, configs and results go from one to the other and back; times are taken in turn. The
model and the data are those of the golden values. Detectron2 need not be compiled. It is not run
by CI, which has no Detectron2. Exits with 1 if something differs.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LITE = HERE.parent
SIDES = ("lite", "real")

# ---------------------------------------------------------------- in a process of either side


def _toy(data: str, split: str) -> str:
    from detectron2.data.datasets import register_coco_instances

    register_coco_instances(split, {}, f"{data}/{split}.json", f"{data}/images")
    return split


def _trainer(data: str, start: int = 0) -> Any:
    """A trainer of the golden FPN model on the toy set; its batches depend on ``start`` alone."""
    import torch
    from detectron2.data import (
        DatasetMapper,
        build_detection_train_loader,
        get_detection_dataset_dicts,
        transforms,
    )
    from detectron2.data.samplers import TrainingSampler
    from detectron2.engine import SimpleTrainer
    from detectron2.solver import get_default_optimizer_params
    from detectron2.utils.env import seed_all_rng
    from golden_inputs import seeded_model

    model = seeded_model("fpn_ln")
    dicts = get_detection_dataset_dicts(_toy(data, "train"))
    mapper = DatasetMapper(
        True,
        augmentations=[
            transforms.RandomFlip(),
            transforms.ResizeScale(0.5, 1.5, 256, 256),
            transforms.FixedSizeCrop((256, 256), pad=False),
        ],
        image_format="RGB",
        use_instance_mask=True,
        recompute_boxes=True,
    )
    sampler = TrainingSampler(len(dicts), seed=start)
    loader = build_detection_train_loader(dicts, mapper=mapper, total_batch_size=2, sampler=sampler)
    groups = get_default_optimizer_params(model, base_lr=1e-3, weight_decay_norm=0.0)
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)
    seed_all_rng(start + 1)
    return SimpleTrainer(model, loader, optimizer)


def train(data: str, folder: str, stop: int) -> list[float]:
    """Train to iteration ``stop`` of 6, from the last checkpoint of ``folder`` if it has one.

    Returns:
        the losses, each of them followed by its learning rate.
    """
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.engine import hooks
    from detectron2.solver import WarmupParamScheduler
    from fvcore.common.param_scheduler import CosineParamScheduler

    resume = os.path.exists(f"{folder}/last_checkpoint")
    trainer = _trainer(data, start=3 if resume else 0)
    checkpointer = DetectionCheckpointer(trainer.model, folder, trainer=trainer)
    schedule = WarmupParamScheduler(CosineParamScheduler(1.0, 0.0), 0.1, 2 / 6)

    class Stop(hooks.HookBase):
        def before_step(self) -> None:
            if self.trainer.iter == stop:
                raise KeyboardInterrupt

    trainer.register_hooks(
        [
            Stop(),
            hooks.LRScheduler(scheduler=schedule),
            hooks.PeriodicCheckpointer(checkpointer, 3),
        ]
    )
    checkpointer.resume_or_load("", resume=resume)
    try:
        trainer.train(trainer.iter + 1 if resume else 0, 6)
    except KeyboardInterrupt:
        pass
    columns = [trainer.storage.history(name).values() for name in ("total_loss", "lr")]
    return [value for row in zip(*columns, strict=True) for value, _ in row]


def save_config(path: str) -> None:
    from detectron2.config import LazyCall, LazyConfig
    from detectron2.data import transforms
    from detectron2.solver.build import get_default_optimizer_params
    from golden_models import MODELS
    from omegaconf import OmegaConf

    augmentations = [
        LazyCall(transforms.ResizeShortestEdge)(short_edge_length=(640, 800), max_size=1333),
        LazyCall(transforms.RandomFlip)(horizontal=True),
    ]
    cfg = {name: MODELS[name]() for name in MODELS}
    cfg["augmentations"] = augmentations
    cfg["optimizer"] = LazyCall(get_default_optimizer_params)(base_lr="${lr}")
    cfg["lr"] = 1e-4
    LazyConfig.save(OmegaConf.create(cfg, flags={"allow_objects": True}), path)


def load_config(path: str, again: str) -> list[str]:
    """Load a config, save it again, and return the state-dict keys of its models."""
    from detectron2.config import LazyConfig, instantiate
    from golden_models import MODELS

    cfg = LazyConfig.load(path)
    LazyConfig.save(cfg, again)
    made = instantiate(cfg.augmentations)
    return [
        repr(list(made)),
        *(key for name in MODELS for key in instantiate(cfg[name]).state_dict()),
    ]


def evaluate(data: str, folder: str, name: str) -> dict[str, dict[str, float]]:
    """Results of a seeded model on the toy set; COCO's result file is written to ``folder``."""
    from detectron2.data import (
        DatasetMapper,
        build_detection_test_loader,
        get_detection_dataset_dicts,
        transforms,
    )
    from detectron2.evaluation import COCOEvaluator, inference_on_dataset
    from golden_inputs import seeded_model

    split = _toy(data, "val")
    dicts = get_detection_dataset_dicts(split, filter_empty=False)
    resize = transforms.ResizeShortestEdge(256, 256)
    mapper = DatasetMapper(False, augmentations=[resize], image_format="RGB")
    loader = build_detection_test_loader(dicts, mapper=mapper)
    return inference_on_dataset(
        seeded_model(name), loader, COCOEvaluator(split, output_dir=folder, use_fast_impl=False)
    )


def time_steps(data: str) -> None:
    """For every line of input take one training step, and print its seconds."""
    import time

    from detectron2.utils.events import EventStorage

    trainer = _trainer(data)
    batch = next(iter(trainer.data_loader))
    trainer.data_loader = itertools.repeat(batch)  # its iterator is made at the first step
    with EventStorage() as trainer.storage:
        for _ in sys.stdin:
            start = time.perf_counter()
            trainer.run_step()
            print(time.perf_counter() - start, flush=True)


def time_import() -> float:
    import time

    start = time.perf_counter()
    import detectron2.engine  # noqa: F401

    return time.perf_counter() - start


JOBS = [train, save_config, load_config, evaluate, time_steps, time_import]

# ---------------------------------------------------------------- in this process


class Side:
    """Runs jobs with one of the two Detectron2s."""

    def __init__(self, root: Path, work: Path) -> None:
        self.root, self.work = root, work
        # Started in the working folder: Python looks for modules where it is started, too.
        self.options = dict(
            cwd=work,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(root), str(HERE / "golden")]),
                "PYTHONWARNINGS": "ignore",
                "OMP_NUM_THREADS": "1",
            },
            text=True,
        )

    def command(self, job: Callable[..., Any], *args: Any) -> list[str]:
        return [sys.executable, __file__, "--job", job.__name__, json.dumps(args, default=str)]

    def run(self, job: Callable[..., Any], *args: Any) -> Any:
        """Result of a job. RuntimeError with its output if it fails."""
        done = subprocess.run(
            self.command(job, *args), capture_output=True, check=False, **self.options
        )
        if done.returncode != 0:
            raise RuntimeError(f"{job.__name__} with {self.root} failed:\n{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])

    def lines(self) -> int:
        files = (self.root / "detectron2").rglob("*.py")
        return sum(len(path.read_text().splitlines()) for path in files)


def compare_checkpoints(sides: dict[str, Side], data: Path, work: Path) -> Iterator[tuple]:
    for writer in SIDES:
        losses = {}
        for reader in SIDES:
            folder = work / f"train_{writer}_{reader}"
            folder.mkdir()
            sides[writer].run(train, data, folder, 3)
            losses[reader] = sides[reader].run(train, data, folder, 6)
        worst = max(abs(a - b) for a, b in zip(losses["lite"], losses["real"], strict=True))
        values = ", ".join(f"{loss:.4f}" for loss in losses["lite"][::2])
        yield f"resume a checkpoint of {writer}: losses {values}; largest difference", worst, 1e-4


def compare_configs(sides: dict[str, Side], work: Path) -> Iterator[tuple]:
    for writer, reader in (SIDES, SIDES[::-1]):
        path, again = work / f"{writer}.yaml", work / f"{writer}_{reader}.yaml"
        sides[writer].run(save_config, path)
        keys = sides[reader].run(load_config, path, again)
        same = path.read_text() == again.read_text()
        same &= keys == sides[writer].run(load_config, path, again)
        yield f"config.yaml of {writer} in {reader}: {len(keys) - 1} tensors; differs", not same, 0


def compare_results(sides: dict[str, Side], data: Path, work: Path) -> Iterator[tuple]:
    for name in ("fpn", "fpn_ln", "sfp", "cascade"):
        found, metrics = {}, {}
        for side in SIDES:
            folder = work / f"eval_{side}_{name}"
            metrics[side] = sides[side].run(evaluate, data, folder, name)
            found[side] = json.loads((folder / "coco_instances_results.json").read_text())
        keys = ("image_id", "category_id", "segmentation")
        other = sum(
            any(a[key] != b[key] for key in keys)
            for a, b in zip(found["lite"], found["real"], strict=True)
        )
        yield f"results of {name}: {len(found['lite'])} detections; other class or mask", other, 0
        numbers = [[(*r["bbox"], r["score"]) for r in found[side]] for side in SIDES]
        worst = max(
            abs(x - y) for a, b in zip(*numbers, strict=True) for x, y in zip(a, b, strict=True)
        )
        yield f"results of {name}: largest difference of boxes and scores", worst, 1e-4
        yield f"results of {name}: AP differs", metrics["lite"] != metrics["real"], 0


def measure_steps(sides: dict[str, Side], data: Path, rounds: int) -> float:
    """Median over the rounds of lite's time for a training step by real's, taken in turn."""
    pipes = dict(
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=1
    )
    workers = [
        subprocess.Popen(sides[name].command(time_steps, data), **pipes, **sides[name].options)
        for name in SIDES
    ]
    ratios = []
    for _ in range(rounds):
        seconds = []
        for worker in workers:
            worker.stdin.write("\n")
            seconds.append(float(worker.stdout.readline()))
        ratios.append(seconds[0] / seconds[1])
    for worker in workers:
        worker.stdin.close()
        worker.wait()
    return statistics.median(ratios[rounds // 5 :])  # the first steps warm up


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, help="checkout of Detectron2")
    parser.add_argument("--rounds", type=int, default=30, help="training steps to time")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        name, arguments = args.job
        (job,) = (job for job in JOBS if job.__name__ == name)
        print(json.dumps(job(*json.loads(arguments))))
        return 0
    if args.real is None or not (args.real / "detectron2/engine").is_dir():
        parser.error(f"--real {args.real}: not a checkout of Detectron2")

    with tempfile.TemporaryDirectory() as folder:
        work, data = Path(folder), Path(folder) / "toy"
        with zipfile.ZipFile(HERE / "golden" / "toy.zip") as archive:
            archive.extractall(data)
        sides = {"lite": Side(LITE, work), "real": Side(args.real.resolve(), work)}
        num_failed = 0
        for what, value, limit in itertools.chain(
            compare_checkpoints(sides, data, work),
            compare_configs(sides, work),
            compare_results(sides, data, work),
        ):
            num_failed += value > limit
            print(f"{'FAILED' if value > limit else 'ok':<7}{what}: {value:g}", flush=True)
        print(f"training step, lite / real: {measure_steps(sides, data, args.rounds):.3f}")
        for name, side in sides.items():
            seconds = min(side.run(time_import) for _ in range(3))
            print(f"{name}: detectron2.engine is imported in {seconds:.2f} s; {side.lines()} lines")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
