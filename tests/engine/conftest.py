"""Runs in processes of their own that can be killed, forked so that none has to import torch."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import hiera_det.engine.detection  # noqa: F401  imported before any fork
import hiera_det.engine.run
import pretrain.pretraining  # noqa: F401
from hiera_det import cli
from hiera_det.data import shapes

SMALL = [
    "model.backbone.bottom_up.trunk.embed_dim=8",
    "model.backbone.bottom_up.trunk.stages=[1,1,1,1]",
    "model.backbone.out_channels=16",
    "model.proposal_generator.head.in_channels=16",
    "model.proposal_generator.pre_nms_topk=[50,30]",
    "model.proposal_generator.post_nms_topk=[30,20]",
    "model.roi_heads.batch_size_per_image=8",
    "model.roi_heads.box_head.input_shape.channels=16",
    "model.roi_heads.box_head.fc_dims=[32]",
    "model.roi_heads.box_predictor.input_shape.channels=32",
    "model.roi_heads.mask_head.input_shape.channels=16",
    "model.roi_heads.mask_head.conv_dims=[8,8]",
    "dataloader.image_size=64",
    "dataloader.train.total_batch_size=2",
    "lr_multiplier.warmup_iters=2",
    "train.log_period=1",
    "train.device=cpu",
    "train.num_pictures=0",
]


class Job:
    """`hiera-det` in a forked process, its output in a file."""

    def __init__(self, argv: list[str], log: Path, root: Path, prepare: Callable[[], None] | None):
        """
        Args:
            argv: of `hiera-det`.
            log: that stdout and stderr go to.
            root: of the datasets.
            prepare: called in the new process.
        """
        self.log = log
        self.status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(argv, root, prepare)

    def _run(self, argv: list[str], root: Path, prepare: Callable[[], None] | None) -> None:
        code = 1
        try:
            os.setpgid(0, 0)
            file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            torch.set_num_threads(1)
            os.environ["DETECTRON2_DATASETS"] = str(root)
            shapes.register_shapes(root)
            hiera_det.engine.run.plot_metrics = lambda metrics, path: "not drawn"  # seconds
            if prepare is not None:
                prepare()
            code = cli.main(argv)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except KeyboardInterrupt:
            code = 130
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def wait(self, timeout: float = 240) -> int:
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self.status = -signal.SIGKILL
                raise TimeoutError(self.text()[-3000:])
            time.sleep(0.02)
        return status

    def wait_for(self, text: str, timeout: float = 120) -> None:
        """Until the output has `text`."""
        end = time.monotonic() + timeout
        while text not in self.text():
            if self.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{text!r} did not come: {self.text()[-3000:]}")
            time.sleep(0.02)

    def text(self) -> str:
        return self.log.read_text() if self.log.is_file() else ""


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Overrides of the shapes config for a model of seconds."""
    return SMALL


@pytest.fixture
def start(mixed_shapes, tmp_path):
    """Starts `hiera-det VERB` with overrides, in a folder under tmp_path: a Job."""
    jobs = []

    def start(verb: str, folder: str | Path, *args: str, prepare=None, flags=()) -> Job:
        config = "shapes/mask_rcnn_hiera_shapes"
        folder = tmp_path / folder
        argv = [verb, "--config-file", config, *flags, *SMALL, *args]
        argv.append(f"train.output_dir={folder}")
        log = tmp_path / f"{folder.name}.{len(jobs)}.log"
        jobs.append(Job(argv, log, mixed_shapes, prepare))
        return jobs[-1]

    yield start
    for job in jobs:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()


@pytest.fixture
def rows(tmp_path) -> Callable[[str], list[dict]]:
    """The lines of the metrics.json of a folder under tmp_path."""

    def rows(folder: str) -> list[dict]:
        return [
            json.loads(s) for s in (tmp_path / folder / "metrics.json").read_text().splitlines()
        ]

    return rows
