"""Two processes on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import detectron2
import numpy as np
import pytest
import torch
from detectron2.engine import launch
from detectron2.utils import comm
from torch.testing import assert_close

WORKER = Path(__file__).parent / "comm_worker.py"


def _start(folder, mode, *prefix):
    root = os.path.dirname(os.path.dirname(detectron2.__file__))
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *prefix, str(WORKER), str(folder), mode]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each of two launched processes saw, and the folder of the run."""
    folder = tmp_path_factory.mktemp("comm")
    mode = "lite" if detectron2.__version__.endswith("+lite") else "real"
    return _start(folder, mode), folder


def test_one_process():
    """Without a process group: rank 0 of 1, and collectives return what they are given."""
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank()) == (1, 0, 0)
    assert comm.is_main_process()
    assert comm.gather(3) == comm.all_gather(3) == [3]
    comm.synchronize()


def test_shared_seed_comes_from_numpy():
    np.random.seed(0)
    expected = np.random.randint(2**31)
    np.random.seed(0)
    assert comm.shared_random_seed() == expected


def test_ranks(seen):
    """Ranks and number of two processes on one machine."""
    for rank, process in enumerate(seen[0]):
        assert (process["world_size"], process["rank"]) == (2, rank)
        assert process["local_rank"] == rank
        assert process["is_main"] == (rank == 0)


def test_gather(seen):
    """``gather`` is for one process, ``all_gather`` for all; both in rank order."""
    first, second = seen[0]
    assert (first["gather"], second["gather"]) == ([0, 1], [])
    assert (first["gather_to_1"], second["gather_to_1"]) == ([], [0, 1])
    assert first["all_gather"] == second["all_gather"] == [{"from": 0}, {"from": 1}]


def test_shared_random_seed(seen):
    """All have the seed of rank 0, though their own random states differ."""
    expected = int(np.random.RandomState(10).randint(2**31))
    assert [process["seed"] for process in seen[0]] == [expected, expected]


def test_training_is_that_of_the_joint_batch(seen):
    """DDP on the CPU: weights equal on both ranks and to a run on both batches at once.

    Losses are averaged over processes and recorded on rank 0.
    """
    processes, folder = seen
    weight = torch.full((1, 2), 0.5, requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    batch = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    losses = []
    for _ in range(3):
        loss = (batch @ weight.T + bias).square().mean()
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, (weight, bias))
        with torch.no_grad():
            weight -= 0.1 * gradients[0]
            bias -= 0.1 * gradients[1]
    for process in processes:
        assert_close(torch.tensor(process["weight"]), weight.detach(), rtol=0, atol=1e-6)
    assert processes[0]["total_loss"] == pytest.approx(losses, rel=1e-6)
    assert processes[1]["total_loss"] is None
    model = torch.load(folder / "model.pth", weights_only=True)["model"]
    assert sorted(model) == ["linear.bias", "linear.weight"]  # without DDP's prefix


@pytest.mark.slow
@pytest.mark.lite_only
def test_torchrun_gives_the_local_rank(tmp_path):
    """In a group that torchrun started, the local rank comes from its environment."""
    for rank, process in enumerate(
        _start(tmp_path, "torchrun", "-m", "torch.distributed.run", "--nproc-per-node=2")
    ):
        assert (process["rank"], process["local_rank"]) == (rank, rank)


@pytest.mark.lite_only
def test_several_machines_need_an_address():
    with pytest.raises(ValueError, match="tcp://"):
        launch(print, 2, num_machines=2, dist_url="auto")
