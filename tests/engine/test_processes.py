"""Two processes of which one fails: the job ends with what that one has to say, once."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from hiera_det.engine.launch import launch_run, report_error

FAULTY = """
    import os
    import torch
    from detectron2.modeling.meta_arch import GeneralizedRCNN
    from detectron2.utils import comm
    from detectron2.utils.events import get_event_storage

    class Faulty(GeneralizedRCNN):
        def forward(self, batch):
            out = super().forward(batch)
            kind, rank, iteration = os.environ["FAULT"].split()
            if not self.training or (comm.get_rank(), get_event_storage().iter) != (
                int(rank), int(iteration)
            ):
                return out
            if kind == "oom":
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            if kind == "bug":
                raise KeyError("a bug")
            return {k: v * float("nan") for k, v in out.items()}
"""


def run_two(how: str, folder: Path, root: Path, fault: str, args: list[str]) -> subprocess.Popen:
    """`hiera-det train` in two processes, by Detectron2's launch or by torchrun."""
    (folder / "faulty.py").write_text(textwrap.dedent(FAULTY))
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    env = os.environ | {"DETECTRON2_DATASETS": str(root), "FAULT": fault, "PYTHONPATH": path}
    command = [sys.executable, "-m", "hiera_det", "train"]
    flags = ["--num-gpus", "2"]
    if how == "torchrun":
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
        command[2:3] = [*torchrun, "hiera_det"]
        flags = []
    command += ["--config-file", "shapes/mask_rcnn_hiera_shapes", *flags]
    command += ["model._target_=faulty.Faulty", "train.checkpointer.period=1", *args]
    command += [f"train.output_dir={folder / 'run'}"]
    with open(folder / "log", "w") as log:
        return subprocess.Popen(
            command, env=env | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT
        )


def end_of(process: subprocess.Popen, folder: Path, timeout: float = 150) -> tuple[int, str]:
    try:
        status = process.wait(timeout)
    finally:
        process.kill()
    return status, (folder / "log").read_text()


def errors_in(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("error")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, fault, text",
    [
        ("num-gpus", "oom 1 1", "(rank 1): the machine is out of memory"),
        ("torchrun", "nan 1 1", "(rank 1): iteration 1: the loss is nan"),
        ("torchrun", "data 0 0", "(rank 0): the dataset cannot be used"),
    ],
)
def test_one_of_two_fails(how, fault, text, mixed_shapes, small, tmp_path):
    """The other waits for it in a collective operation, or finds the gradients spoilt."""
    root = mixed_shapes
    if fault.startswith("data"):
        root = tmp_path / "broken"
        (root / "shapes").mkdir(parents=True)
        for name in ("meta.json", "train", "val"):
            (root / "shapes" / name).symlink_to(mixed_shapes / "shapes" / name)
        (root / "shapes/annotations").mkdir()
        for old in (mixed_shapes / "shapes/annotations").iterdir():
            content = json.loads(old.read_text())
            content["annotations"][0]["category_id"] = 77
            (root / "shapes/annotations" / old.name).write_text(json.dumps(content))
    process = run_two(how, tmp_path, root, fault, [*small, "train.max_iter=3"])
    status, log = end_of(process, tmp_path)
    assert status == (2 if how == "num-gpus" else 1), log[-3000:]  # torchrun's own
    assert len(errors_in(log)) == 1 and text in errors_in(log)[0], log[-3000:]
    if how == "num-gpus":
        assert "Traceback" not in log
    if not fault.startswith("data"):
        assert (tmp_path / "run/last_checkpoint").read_text() == "model_0000000.pth"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["num-gpus", "torchrun"])
def test_signal_to_two_processes_writes_a_checkpoint(how, mixed_shapes, small, tmp_path):
    process = run_two(how, tmp_path, mixed_shapes, "none 9 9", [*small, "train.max_iter=500"])
    log = tmp_path / "log"
    while "iter 3/" not in log.read_text() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    status, text = end_of(process, tmp_path)
    assert status == (143 if how == "num-gpus" else 1), text[-3000:]  # torchrun's own
    iteration = int((tmp_path / "run/last_checkpoint").read_text()[6:-4])
    assert f"Stopped after iteration {iteration + 1} of 500" in text
    state = torch.load(tmp_path / f"run/model_{iteration:07d}.pth", weights_only=True)
    assert state["hiera_det"]["images_seen"] == 2 * (iteration + 1)
    assert "error" not in text.split("Stopped after")[0].split("iter 3/")[1], text[-3000:]


@pytest.mark.parametrize("device, backend", [("cpu", "gloo"), ("cuda", "nccl")])
def test_backend_follows_the_device_not_the_machine(monkeypatch, device, backend):
    """On a machine with GPUs; and a timeout is set in any case."""
    asked = {}
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.set_device", lambda index: None)
    monkeypatch.setattr(
        "torch.distributed.init_process_group", lambda name, timeout: asked.update({name: timeout})
    )
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    monkeypatch.setattr("detectron2.utils.comm.create_local_process_group", lambda size: None)
    monkeypatch.setattr("detectron2.utils.comm.synchronize", lambda: None)
    assert launch_run(lambda args: None, None, device) == 0
    assert list(asked) == [backend] and asked[backend].total_seconds() > 0
    # what processes that this one starts will see
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ("" if device == "cpu" else "0")


# ------------------------------------------------------------------------------------ messages
@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore"),
        RuntimeError("[enforce fail at alloc.cpp] DefaultCPUAllocator: can't allocate memory: 8"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_what_to_turn(error, capsys):
    assert report_error(error) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: the ") and line.count("\n") == 1
    for key in ("train.images_per_process", "act_checkpoint", "train.amp.enabled"):
        assert key in line
