"""A run of seconds on images of mixed sizes, which leaves every kind of checkpoint."""

import os
import sys
from pathlib import Path

import pytest
import torch

import hiera_det.engine.detection  # noqa: F401  imported before any fork
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
    "model.roi_heads.box_predictor.test_score_thresh=0.0",  # or it would find nothing
    "model.roi_heads.mask_head.input_shape.channels=16",
    "model.roi_heads.mask_head.conv_dims=[8,8]",
    "dataloader.image_size=64",
    "dataloader.train.total_batch_size=2",
    "lr_multiplier.warmup_iters=2",
    "train.device=cpu",
    "train.num_pictures=0",
    "train.max_iter=2",
    "train.checkpointer.period=1",
    "train.ema.enabled=True",
]


def in_a_fork(argv: list[str], root: Path, log: Path) -> int:
    """The exit status of `hiera-det` in a process of its own, which need not import torch."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            torch.set_num_threads(1)
            os.environ["DETECTRON2_DATASETS"] = str(root)
            shapes.register_shapes(root)
            code = cli.main(argv)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="session")
def forked():
    """(argv, root of the datasets, log) -> exit status; `hiera-det` in a forked process."""
    return in_a_fork


@pytest.fixture(scope="session")
def run(mixed_shapes, tmp_path_factory) -> Path:
    """The folder of a run of two iterations with evaluation."""
    folder = tmp_path_factory.mktemp("run") / "run"
    config = ["--config-file", "shapes/mask_rcnn_hiera_shapes", *SMALL]
    argv = ["train", *config, f"train.output_dir={folder}"]
    log = folder.parent / "log"
    assert in_a_fork(argv, mixed_shapes, log) == 0, log.read_text()[-3000:]
    return folder


@pytest.fixture(scope="session")
def images(mixed_shapes) -> Path:
    """Three square, wide and tall images."""
    return mixed_shapes / "shapes" / "val"


@pytest.fixture(scope="session")
def annotations(mixed_shapes) -> Path:
    return mixed_shapes / "shapes/annotations/instances_val.json"
