"""How runs end: kills, signals, full disks, what is not finite; and that they go on.

Each is `hiera-det train` in a process of its own, on shapes images of mixed aspect ratio.
"""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import get_event_storage
from torch.testing import assert_close

import hiera_det.engine.detection
import hiera_det.engine.run
from hiera_det.engine.resume import drop_torn_line, last_checkpoint

KILLS = int(os.environ.get("HIERA_DET_KILLS", "3"))  # random moments at which a run is ended
EACH = "train.checkpointer.period=1"  # a checkpoint after every iteration


def final(folder: Path) -> dict:
    return torch.load(folder / "model_final.pth", weights_only=True)


def assert_same_end(folder: Path, expected: Path) -> None:
    """Model, optimizer and account of two runs, to the bit."""
    a, b = final(folder), final(expected)
    assert_close(a["model"], b["model"], rtol=0, atol=0)
    for state, run in ((a, folder), (b, expected)):  # the config says where the run is
        state["hiera_det"]["config"] = state["hiera_det"]["config"].replace(str(run), "RUN")
    assert a["iteration"] == b["iteration"] and a["hiera_det"] == b["hiera_det"]
    assert_close(
        a["trainer"]["optimizer"]["state"], b["trainer"]["optimizer"]["state"], rtol=0, atol=0
    )
    if "ema" in b:
        assert_close(a["ema"], b["ema"], rtol=0, atol=0)


# ----------------------------------------------------------------------------------- kills
@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_run_that_is_killed_again_and_again_ends_as_one_that_is_not(start, tmp_path, num_workers):
    """SIGKILL, SIGTERM and Ctrl-C at random moments; HIERA_DET_KILLS=20 takes more of them."""
    args = [
        f"train.max_iter={3 * KILLS}",
        EACH,
        "train.eval_period=5",
        f"dataloader.train.num_workers={num_workers}",
        "+train.ema={enabled:True,decay:0.9}",
    ]
    begin = time.monotonic()
    job = start("train", "whole", *args)
    job.wait_for("iter 1/")
    startup = time.monotonic() - begin
    assert job.wait() == 0
    step = (time.monotonic() - begin - startup) / (3 * KILLS)
    rng = random.Random(7 + num_workers)
    folder, endings = tmp_path / "killed", []
    for _ in range(KILLS):
        flags = ["--resume"] if (folder / "config.yaml").is_file() else []
        job = start("train", "killed", *args, flags=flags)
        number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        if rng.random() < 0.2:  # before it trains
            time.sleep(startup * rng.uniform(0.3, 1))
        else:
            while "s/it" not in job.text() and job.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 3) * step)
        if job.poll() is not None:
            break
        os.kill(job.pid, number) if rng.random() < 0.5 else os.killpg(job.pid, number)
        status = job.wait()
        tag = folder / "last_checkpoint"
        endings.append((number.name, status, tag.read_text()[6:-4] if tag.is_file() else ""))
        if "s/it" in job.text():  # before, a Ctrl-C may end in OmegaConf's own words
            assert status in {-number, 128 + number, 0}, (endings, job.text()[-3000:])
            assert "Traceback" not in job.text(), job.text()[-3000:]
    flags = ["--resume"] if (folder / "config.yaml").is_file() else []
    job = start("train", "killed", *args, flags=flags)
    status = job.wait()
    print(len(endings), *endings)
    assert status == 0, (endings, job.text()[-3000:])
    assert_same_end(folder, tmp_path / "whole")
    assert not (folder / "checkpoint.tmp").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, status, num_workers", [(signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 0)]
)
def test_signal_writes_a_checkpoint_before_the_exit(start, tmp_path, number, status, num_workers):
    """Also where the signal goes to the loader's workers too, and comes twice."""
    args = ["train.max_iter=500", f"dataloader.train.num_workers={num_workers}"]
    job = start("train", "run", *args)
    job.wait_for("iter 3/")
    for _ in range(2):
        os.killpg(job.pid, number)
        time.sleep(0.05)
    assert job.wait() == status, job.text()[-3000:]
    path = last_checkpoint(str(tmp_path / "run"))
    iteration = int(path.stem.removeprefix("model_"))
    content = torch.load(path, weights_only=True)
    assert content["trainer"]["iteration"] == content["iteration"] == iteration >= 2
    assert content["hiera_det"]["images_seen"] == 2 * (iteration + 1)
    assert f"Stopped after iteration {iteration + 1} of 500" in job.text()
    assert "Traceback" not in job.text()


@pytest.mark.slow
def test_ctrl_c_before_the_first_checkpoint_is_no_dead_end(start, tmp_path):
    """The first iteration has not come: --resume starts anew."""

    def slow() -> None:
        hiera_det.engine.run.create_ddp_model = lambda *args, **kwargs: time.sleep(60)

    job = start("train", "run", "train.max_iter=2", prepare=slow)
    job.wait_for("Full config saved")
    time.sleep(0.3)
    os.kill(job.pid, signal.SIGINT)
    assert job.wait() == 130 and "Traceback" not in job.text()
    job = start("train", "run", "train.max_iter=1", flags=["--resume"])
    assert job.wait() == 0, job.text()[-3000:]
    assert "has no checkpoint yet; starting anew" in job.text()


def test_checkpoint_without_its_note_is_found(tmp_path):
    """A kill between the first checkpoint and last_checkpoint."""
    for name in ("model_0000003.pth", "model_0000012.pth", "model_best.pth"):
        (tmp_path / name).touch()
    assert last_checkpoint(str(tmp_path)).name == "model_0000012.pth"


def test_run_with_the_best_weights_alone_is_no_dead_end(tmp_path):
    """An evaluation may come before the first checkpoint, and a kill between them."""
    (tmp_path / "model_best.pth").touch()
    assert last_checkpoint(str(tmp_path)) is None


@pytest.mark.parametrize(
    "before, after",
    [("", ""), ('{"a": 1}\n', '{"a": 1}\n'), ('{"a": 1}\n{"b"', '{"a": 1}\n'), ("{", "")],
)
def test_half_a_line_is_cut_off(tmp_path, before, after):
    path = tmp_path / "metrics.json"
    drop_torn_line(path)  # none yet
    path.write_text(before)
    drop_torn_line(path)
    assert path.read_text() == after


# ----------------------------------------------------------------------------------- evaluation
def evaluations(*values: float | None):
    """A `prepare` whose evaluations give one value after the other, and at None wait."""

    def prepare() -> None:
        left = list(values)

        def evaluate(cfg, model):
            value = left.pop(0)
            print(f"evaluation gives {value}", flush=True)
            if value is None:
                time.sleep(60)
            return {"segm": {"AP": value}}

        hiera_det.engine.detection.evaluate_detector = evaluate

    return prepare


@pytest.mark.slow
def test_best_checkpoint_and_patience_outlive_a_kill(start, tmp_path, rows):
    """The checkpoint of iteration 4 is from before the evaluation there; 5.0 at 2 stays best."""
    args = ["train.max_iter=20", "train.checkpointer={period:2,max_to_keep:1}"]
    args += ["train.eval_period=2", "+train.best_checkpoint=True", "+train.early_stop.patience=3"]
    job = start("train", "run", *args, prepare=evaluations(5.0, 3.0, None))
    job.wait_for("evaluation gives None")
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    folder = tmp_path / "run"
    assert (folder / "last_checkpoint").read_text() == "model_0000005.pth"
    job = start("train", "run", *args, prepare=evaluations(4.0, 4.5), flags=["--resume"])
    assert job.wait() == 0, job.text()[-3000:]
    # the evaluation that was cut short comes first; three without a better one are 4, 6 and 8
    assert "Best so far" not in job.text() and "iter 7/" in job.text()
    assert "Stopping early: 3 evaluations without one better than 5.00 at iteration 2" in job.text()
    assert [(r["iteration"], r["segm/AP"]) for r in rows("run") if "segm/AP" in r] == [
        (1, 5.0), (3, 3.0), (5, 4.0), (7, 4.5)
    ]  # fmt: skip
    best = torch.load(folder / "model_best.pth", weights_only=True)
    assert best["best"] == {"segm/AP": 5.0} and best["iteration"] == 1
    assert best["hiera_det"]["images_seen"] == 4
    end = final(folder)
    assert end["iteration"] == end["trainer"]["iteration"] == 7
    assert end["hiera_det"]["images_seen"] == 16
    assert sorted(p.name for p in folder.glob("*.pth")) == [
        "model_0000005.pth", "model_0000007.pth", "model_best.pth", "model_final.pth"
    ]  # fmt: skip


@pytest.mark.slow
def test_signal_during_an_evaluation_need_not_wait_for_it(start, tmp_path):
    args = ["train.max_iter=4", "train.checkpointer.period=100"]
    job = start("train", "run", *args, prepare=evaluations(None))
    job.wait_for("evaluation gives None")
    os.kill(job.pid, signal.SIGTERM)
    assert job.wait(timeout=30) == 143, job.text()[-3000:]
    job = start("train", "run", *args, prepare=evaluations(1.0), flags=["--resume"])
    assert job.wait() == 0, job.text()[-3000:]
    assert "evaluation gives 1.0" in job.text() and "iter 4/" not in job.text()  # it alone was left


# ----------------------------------------------------------------------------------- full disk
@pytest.fixture
def small_disk(tmp_path):
    """A file system of 45 MB in tmp_path/disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=45m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("filled_by", ["checkpoints", "another"])
def test_full_disk_ends_in_one_line_and_the_run_goes_on(start, small_disk, rows, filled_by):
    args = ["train.max_iter=60", "train.checkpointer={period:1,max_to_keep:100}"]
    folder, filler = small_disk / "run", small_disk / "filler"
    filler.write_bytes(bytes(25 * 2**20))
    job = start("train", "disk/run", *args)
    if filled_by == "another":
        job.wait_for("iter 3/")
        with open(filler, "ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(2**16))
            except OSError:
                pass
    assert job.wait() == 2, job.text()[-3000:]
    errors = [line for line in job.text().splitlines() if line.startswith("error")]
    assert len(errors) == 1 and errors[0] == job.text().splitlines()[-1]
    assert "is full" in errors[0] and "are missing" in errors[0] and "--resume" in errors[0]
    assert "Traceback" not in job.text() and "Logging error" not in job.text()
    path = last_checkpoint(str(folder))
    done = torch.load(path, weights_only=True)["iteration"] + 1
    assert not (folder / "checkpoint.tmp").exists()
    assert all("iteration" in row for row in rows("disk/run"))
    filler.unlink()
    for old in sorted(folder.glob("model_*.pth")):
        if old != path:
            old.unlink()
    args = [f"train.max_iter={done + 2}", "train.checkpointer={period:1,max_to_keep:3}"]
    job = start("train", "disk/run", *args, flags=["--resume"])
    assert job.wait() == 0, job.text()[-3000:]
    assert f"continuing with iteration {done}" in job.text()
    iterations = [r["iteration"] for r in rows("disk/run") if "total_loss" in r]
    assert iterations[-3:] == [done - 1, done, done + 1] or iterations[-2:] == [done, done + 1]


# ----------------------------------------------------------------------------------- NaN
def nan_at(iteration: int):
    """A `prepare` with a loss that is not a number in one iteration."""

    def prepare() -> None:
        def losses(model, batch):
            factor = float("nan") if get_event_storage().iter == iteration else 1.0
            return {k: v * factor for k, v in model(batch).items()}

        hiera_det.engine.run.fit.__kwdefaults__["loss"] = losses

    return prepare


def test_nan_ends_in_one_line_that_names_the_images(start, tmp_path):
    job = start("train", "run", "train.max_iter=4", EACH, prepare=nan_at(2))
    assert job.wait() == 2, job.text()[-3000:]
    line = job.text().splitlines()[-1]
    assert line.startswith("error: iteration 2: the loss is nan")
    assert line.count("shapes/train/0") == 2 and "optimizer.lr" in line
    assert "Traceback" not in job.text()
    assert (tmp_path / "run/last_checkpoint").read_text() == "model_0000001.pth"
    assert not (tmp_path / "run/model_0000002.pth").exists()
