"""An installed package, in an empty folder: the command, configs by name, a run."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from hiera_det.data.shapes import make_shapes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A virtual environment with both wheels; everything else comes from this one's packages."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = [str(ROOT)]
    import detectron2

    if "lite" in detectron2.__version__:
        sources.append(str(ROOT / "detectron2_lite"))
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder / "wheels"), *sources], check=True)
    venv.create(folder / "env", with_pip=False)
    python = folder / "env/bin/python"
    wheels = [str(path) for path in (folder / "wheels").iterdir()]
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", *wheels], check=True)
    site = next((folder / "env/lib").glob("python*/site-packages"))
    # a path in a .pth is searched, but the .pth files in it are not read: no editable install
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "env/bin"


def run(installed, folder, *args, **env) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(installed / "hiera-det"), *args],
        cwd=folder,
        env=clean | {"OMP_NUM_THREADS": "1"} | env,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_installed_command_trains_and_evaluates_the_shapes_config(installed, tmp_path):
    make_shapes(tmp_path / "datasets", num_train=6, num_val=2, image_size=96, seed=3)
    small = [
        "model.backbone.bottom_up.trunk.embed_dim=16",
        "model.backbone.bottom_up.trunk.stages=[1,1,1,1]",
        "model.roi_heads.batch_size_per_image=8",
        "dataloader.image_size=96",
        "dataloader.train.total_batch_size=2",
        "train.max_iter=2",
        "train.output_dir=run",
    ]
    config = "shapes/mask_rcnn_hiera_shapes.py"
    done = run(installed, tmp_path, "train", "--config-file", config, *small)
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(ROOT) not in done.stdout + done.stderr
    other = tmp_path / "elsewhere"
    other.mkdir()
    done = run(
        installed, other, "eval", "--config-file", "../run/config.yaml",
        "--weights", "../run/model_final.pth", "train.output_dir=here",
        DETECTRON2_DATASETS=str(tmp_path / "datasets"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "copypaste: " in done.stdout + done.stderr


@pytest.mark.slow
def test_installed_package_has_every_config_and_benchmark(installed, tmp_path):
    for name in ("COCO/mask_rcnn_hiera_b.py", "pretrain/mae_hiera_b.py"):
        code = f"import hiera_det; print(hiera_det.get_config({name!r}).train.max_iter)"
        done = subprocess.run(
            [str(installed / "python"), "-c", code], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0 and int(done.stdout) > 100_000, done.stderr
    done = run(installed, tmp_path, "benchmark", "trunk", "--", "--help")
    assert done.returncode == 0 and "--repeats" in done.stdout
