"""The main job as users run it, on a small shapes set: files, resume, processes, bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from hiera_det.cli import main
from hiera_det.data.shapes import make_shapes

TOOL = Path(__file__).parents[2] / "tools/lazyconfig_train_net.py"
SMALL = [
    "model.backbone.bottom_up.trunk.embed_dim=16",
    "model.backbone.bottom_up.trunk.stages=[1,1,1,1]",
    "model.proposal_generator.post_nms_topk=[30,20]",
    "model.roi_heads.batch_size_per_image=8",
    "dataloader.image_size=96",
    "dataloader.train.total_batch_size=2",
    "lr_multiplier.warmup_iters=2",
]
CONFIG = "shapes/mask_rcnn_hiera_shapes"


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    make_shapes(root, num_train=12, num_val=6, image_size=96, seed=3)
    return root


def command(output_dir, *overrides, flags=(), config=CONFIG, small=SMALL):
    return [
        sys.executable,
        str(TOOL),
        "--config-file",
        config,
        *flags,
        *small,
        f"train.output_dir={output_dir}",
        "train.log_period=1",
        *overrides,
    ]


def environment(datasets) -> dict:
    return os.environ | {"DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}


def run(datasets, *args, **kwargs) -> str:
    done = subprocess.run(
        command(*args, **kwargs),
        env=environment(datasets),
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "metrics.json").read_text().splitlines()]


def fail(datasets, *args, **kwargs) -> str:
    """Runs what has to fail, and returns the last line that the user reads."""
    done = subprocess.run(
        command(*args, **kwargs),
        env=environment(datasets),
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "iter 1/" not in done.stdout + done.stderr  # before the first iteration
    return done.stderr.strip()


def refuse(capfd, *args, **kwargs) -> str:
    """What a user reads of a mistake that is found before a run is opened; in this process."""
    _, _, *words = command(*args, **kwargs)
    assert main(["train", *words]) == 2
    return capfd.readouterr().err.strip()


@pytest.fixture(scope="module")
def finished(datasets, tmp_path_factory):
    """A run of 4 iterations that nothing disturbed, with a checkpoint after every second."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    log = run(datasets, folder, "train.max_iter=4", "train.checkpointer.period=2")
    return folder, log


def test_run_leaves_everything_a_user_looks_for(finished):
    folder, log = finished
    names = {p.name for p in folder.iterdir()}
    assert {
        "config.yaml",
        "log.txt",
        "metrics.json",
        "curves.png",
        "predictions.png",
        "report.html",
        "last_checkpoint",
        "model_0000001.pth",
        "model_final.pth",
        "inference",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    assert "iter 4/4  eta 0:00:00  loss" in log and "GiB" in log
    rows = metrics(folder)
    assert [r["iteration"] for r in rows if "total_loss" in r] == [0, 1, 2, 3]
    last = rows[-1]
    for task in ("bbox", "segm"):
        assert {f"{task}/{k}" for k in ("AP", "AP50", "AP75", "APs", "APm", "APl")} <= set(last)
    header = (folder / "predictions.png").read_bytes()[:8]
    assert header == b"\x89PNG\r\n\x1a\n"


def test_checkpoint_needs_no_pickle(finished):
    state = torch.load(finished[0] / "model_final.pth", weights_only=True)
    assert set(state) == {"model", "trainer", "iteration", "hiera_det"}
    facts = state["hiera_det"]
    assert (facts["images_seen"], facts["total_batch_size"], facts["max_iter"]) == (8, 2, 4)


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_parameters(datasets, finished, tmp_path):
    """SIGKILL after the checkpoint of iteration 2 of 4, --resume, and all parameters are equal."""
    folder = tmp_path / "killed"
    args = ["train.max_iter=4", "train.checkpointer.period=2"]
    process = subprocess.Popen(
        command(folder, *args),
        env=environment(datasets),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if "iter 3/4" in line:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert (folder / "last_checkpoint").read_text() == "model_0000001.pth"
    log = run(datasets, folder, *args, flags=["--resume"])
    assert "continuing with iteration 2" in log
    expected = torch.load(finished[0] / "model_final.pth", weights_only=True)
    got = torch.load(folder / "model_final.pth", weights_only=True)
    assert_close(got["model"], expected["model"], atol=0, rtol=0)
    assert got["iteration"] == expected["iteration"] == 3
    assert got["trainer"]["iteration"] == expected["trainer"]["iteration"]
    assert_close(
        got["trainer"]["optimizer"]["state"],
        expected["trainer"]["optimizer"]["state"],
        atol=0,
        rtol=0,
    )
    assert (folder / "config.1.yaml").is_file()  # of the run before, kept


def test_second_run_does_not_overwrite_the_first(finished, capfd):
    before = sorted((p.name, p.stat().st_mtime) for p in finished[0].iterdir())
    assert "already holds a run" in refuse(capfd, finished[0], "train.max_iter=1")
    assert sorted((p.name, p.stat().st_mtime) for p in finished[0].iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("how", ["num-gpus", "torchrun"])
def test_two_processes_evaluate_as_one(datasets, finished, tmp_path, how):
    folder, log = finished
    weights = f"train.init_checkpoint={folder / 'model_final.pth'}"
    flags = ["--eval-only", "--num-gpus", "2"] if how == "num-gpus" else ["--eval-only"]
    cmd = command(tmp_path, weights, flags=flags)
    if how == "torchrun":
        cmd[:1] = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
        ]
    done = subprocess.run(
        cmd, env=environment(datasets), text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = tmp_path / "eval_model_final/inference/coco_instances_results.json"
    got = sorted(map(repr, json.loads(results.read_text())))
    one = json.loads((folder / "inference/coco_instances_results.json").read_text())
    assert got == sorted(map(repr, one))  # every image once
    lines = [line.split("copypaste: ")[-1] for line in log.splitlines() if "copypaste" in line]
    for line in lines[-6:]:
        assert line in done.stdout + done.stderr


@pytest.mark.slow
def test_two_processes_train(datasets, tmp_path):
    log = run(datasets, tmp_path / "ddp", "train.max_iter=2", flags=["--num-gpus", "2"])
    assert "iter 2/2" in log and "segm/AP" in metrics(tmp_path / "ddp")[-1]


@pytest.mark.slow
def test_bf16_on_the_cpu(datasets, tmp_path):
    run(datasets, tmp_path / "bf16", "train.max_iter=2", "train.amp.enabled=True")
    losses = [r["total_loss"] for r in metrics(tmp_path / "bf16") if "total_loss" in r]
    assert len(losses) == 2 and all(0 < x < 100 for x in losses)


# ------------------------------------------------------------------------------ bad input
def broken_dataset(root: Path, what: str) -> Path:
    """A copy of the shapes set with one thing wrong in it."""
    import shutil

    copy = root / what
    shutil.copytree(
        root,
        copy,
        ignore=lambda d, names: [n for n in names if n != "shapes"] if Path(d) == root else [],
    )
    path = copy / "shapes/annotations/instances_train.json"
    if what == "no_image":
        next(p for p in sorted((copy / "shapes/train").iterdir())).unlink()
    elif what == "not_coco":
        path.write_text(json.dumps([1, 2, 3]))
    elif what == "bad_category":
        content = json.loads(path.read_text())
        content["annotations"][0]["category_id"] = 77
        path.write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize(
    "what, text",
    [
        ("no_image", "not there|missing|not found"),
        pytest.param("not_coco", "COCO", marks=pytest.mark.slow),
        pytest.param("bad_category", "77", marks=pytest.mark.slow),
    ],
)
def test_broken_datasets_stop_the_run(datasets, tmp_path, what, text):
    message = fail(broken_dataset(datasets, what), tmp_path)
    import re

    assert re.search(text, message.splitlines()[-1] + message[-1500:]), message[-1500:]
    assert "instances_train.json" in message or "train" in message


@pytest.mark.parametrize(
    "overrides, flags, text",
    [
        (["train.max_itr=3"], (), "train.max_iter"),
        ([], ["--resume"], "nothing to resume"),
        ([], ["--eval-only"], "train.init_checkpoint"),
    ],
)
def test_bad_arguments_open_no_run(tmp_path, capfd, overrides, flags, text):
    assert text in refuse(capfd, tmp_path / "out", *overrides, flags=flags).splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "override, text",
    [
        ("model.roi_heads.num_classes=7", "num_classes"),
        ("train.init_checkpoint=nowhere.pth", "nowhere.pth"),
    ],
)
def test_bad_arguments_stop_the_run(datasets, tmp_path, override, text):
    assert text in fail(datasets, tmp_path / "out", override)[-1500:]


def test_missing_config_stops_the_run(tmp_path, capfd):
    message = refuse(capfd, tmp_path, config="configs/shapes/mask_rcnn_hiera_shape.py")
    last = message.splitlines()[-1]
    assert "did you mean" in last and "shapes/mask_rcnn_hiera_shapes.py" in last


@pytest.mark.slow
def test_weights_that_do_not_fit_stop_the_run(datasets, finished, tmp_path):
    weights = f"train.init_checkpoint={finished[0] / 'model_final.pth'}"
    wide = [o.replace("embed_dim=16", "embed_dim=24") for o in SMALL]
    message = fail(datasets, tmp_path, weights, small=wide)
    assert message.startswith("error: ") and "embed_dim 24" in message
    classes = "model.roi_heads.mask_head.conv_dims=[32,16]"
    message = fail(datasets, tmp_path, weights, classes)
    assert message.startswith("error: ") and "roi_heads.mask_head.deconv.weight" in message


def test_help_shows_an_example():
    out = subprocess.run([sys.executable, str(TOOL), "--help"], capture_output=True, text=True)
    assert out.returncode == 0 and "configs/shapes/mask_rcnn_hiera_shapes.py" in out.stdout
