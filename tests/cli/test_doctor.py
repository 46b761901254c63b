"""The doctor: it names what is wrong, with what to do, whatever is missing."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hiera_det.cli import main
from hiera_det.report import doctor, doctor_machine
from hiera_det.report.doctor import BROKEN, NOTE, OK, Line, run_checks, software_checks, table
from hiera_det.report.doctor_machine import machine_checks

ROOT = Path(__file__).parents[2]


def lines_of(*names: str, output="output") -> list[Line]:
    checks = software_checks() | machine_checks(output)
    return run_checks({name: checks[name] for name in names})


def only(name: str) -> Line:
    (line,) = lines_of(name)
    return line


@pytest.fixture
def hidden(monkeypatch):
    """Makes modules and distributions missing."""

    def hide(*names: str) -> None:
        version = importlib.metadata.version

        def other(name: str) -> str:
            if name.replace("-", "_") in names:
                raise importlib.metadata.PackageNotFoundError(name)
            return version(name)

        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setattr(importlib.metadata, "version", other)

    return hide


def test_all_is_well_here(capsys, monkeypatch, tmp_path):
    usage = SimpleNamespace(total=1e12, free=1e12)  # the machine of a test may have little
    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "Nothing is broken" in told and BROKEN not in told
    for name in ("Python", "torch", "Detectron2", "SDPA cpu float32", "COCO evaluator", "shapes"):
        assert f"  {name} " in told
    assert list(tmp_path.iterdir()) == []  # it looks, and makes nothing


def test_an_empty_python_gets_lines_and_no_traceback(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "from hiera_det.cli import main\nsys.exit(main(['doctor']))"
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    for name in ("torch", "numpy", "opencv", "Pillow", "pycocotools", "Detectron2", "omegaconf"):
        assert any(row.startswith(f"{BROKEN}  {name} ") for row in done.stdout.splitlines()), name
    assert "pip install torch torchvision" in done.stdout
    assert "ok      disk, runs" in done.stdout


@pytest.mark.parametrize(
    ("modules", "check", "text", "fix"),
    [
        (["torch"], "torch", "is missing", "pip install torch torchvision"),
        (["cv2"], "opencv", "is missing", "pip install opencv-python-headless"),
        (["PIL"], "Pillow", "is missing", "pip install --force-reinstall Pillow"),
        (["pycocotools"], "pycocotools", "is missing", "pip install --force-reinstall pycocotools"),
        (["detectron2"], "Detectron2", "is missing", "pip install ./detectron2_lite"),
        (["safetensors"], "packages", "is missing", "pip install safetensors"),
    ],
)
def test_a_missing_package_is_a_line(hidden, modules, check, text, fix):
    hidden(*modules)
    line = lines_of(check)[0]
    assert line.status == BROKEN and text in line.text and fix in line.fix


def test_without_torch_nothing_else_complains_of_it(hidden):
    hidden("torch")
    checks = software_checks() | machine_checks("output")
    broken = [line.name for line in run_checks(checks) if line.status == BROKEN]
    assert broken == ["torch"]


def test_a_torchvision_of_another_torch(monkeypatch):
    torchvision = pytest.importorskip("torchvision")

    def fails(*args):
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.setattr(torchvision.ops, "nms", fails)
    line = only("torchvision")
    assert line.status == BROKEN
    assert line.text == "does not work: RuntimeError: operator torchvision::nms does not exist"
    assert "both together" in line.fix


def test_opencv_without_the_libraries_of_a_screen(monkeypatch, tmp_path):
    message = "libGL.so.1: cannot open shared object file"
    (tmp_path / "cv2.py").write_text(f"raise ImportError({message!r})")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    line = only("opencv")
    assert (line.status, message in line.text) == (BROKEN, True)
    assert line.fix == "pip uninstall opencv-python && pip install opencv-python-headless"


def test_an_omegaconf_that_is_too_new(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.4.0.dev3")
    line = lines_of("packages")[0]
    assert (line.status, line.name) == (BROKEN, "omegaconf")
    assert line.text == "2.4.0.dev3; needed is omegaconf>=2.1,<2.4"
    assert line.fix == 'pip install "omegaconf>=2.1,<2.4"'


def test_which_detectron2(monkeypatch, tmp_path):
    package = tmp_path / "detectron2"
    package.mkdir()
    for name in ("__init__.py", "engine.py"):
        (package / name).write_text("__version__ = '0.6'\n")
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "refs" / "heads" / "main").write_text("0123456789abcdef\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(importlib.metadata, "distribution", _not_found)
    monkeypatch.syspath_prepend(str(tmp_path))
    line = only("Detectron2")
    assert line.status == OK
    assert line.text.startswith("the original 0.6, commit 01234567, without its compiled _C")
    (git / "refs" / "heads" / "main").unlink()
    (git / "packed-refs").write_text("# pack-refs\nfedcba9876543210 refs/heads/main\n")
    assert "commit fedcba98" in only("Detectron2").text
    (package / "engine.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.delitem(sys.modules, "detectron2.engine")
    line = only("Detectron2")
    assert line.status == BROKEN and "nowhere_to_be_found" in line.text


def _not_found(name: str):
    raise importlib.metadata.PackageNotFoundError(name)


def test_the_evaluator_is_the_fastest(monkeypatch):
    present: dict[str, str] = {}
    monkeypatch.setattr(doctor, "_installed", present.get)
    assert only("COCO evaluator").status == BROKEN
    present["pycocotools"] = "2.0"
    line = only("COCO evaluator")
    assert (line.status, line.text) == (NOTE, "pycocotools 2.0")
    present["hotcoco"] = "1.0"
    line = only("COCO evaluator")
    assert (line.status, line.text) == (OK, "hotcoco 1.0, pycocotools 2.0")
    assert [line.status for line in lines_of("extras")] == [NOTE, NOTE, OK]


# ---------------------------------------------------------------------------------- the machine
def test_a_gpu_that_torch_was_not_built_for(monkeypatch):
    import torch

    facts = SimpleNamespace(name="GB999", major=12, minor=1, total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: facts)

    def no_image(*args, **kwargs):
        raise RuntimeError("CUDA error: no kernel image is available")

    monkeypatch.setattr(torch, "ones", no_image)
    line = only("GPU")
    assert (line.status, line.name) == (BROKEN, "GPU 0")
    assert line.text.startswith("GB999, capability 12.1, 80 GB, bf16; a product fails: CUDA error")


def test_attention_without_a_fused_kernel(monkeypatch):
    monkeypatch.setattr(doctor_machine, "KERNELS", ("CUDNN_ATTENTION", "MATH"))
    assert [(line.status, line.text) for line in lines_of("attention")] == [(NOTE, "math")] * 2
    monkeypatch.setattr(doctor_machine, "KERNELS", ("NO_SUCH_ATTENTION",))
    assert [(line.status, line.text) for line in lines_of("attention")] == [(BROKEN, "none")] * 2


@pytest.mark.parametrize(("gigabytes", "status"), [(0.06, BROKEN), (1, NOTE), (8, OK)])
def test_shared_memory_of_a_container(monkeypatch, gigabytes, status):
    if not Path("/dev/shm").is_dir():
        pytest.skip("this machine has no /dev/shm")
    usage = SimpleNamespace(total=gigabytes * 1e9, free=gigabytes * 1e9)
    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda folder: usage)
    line = only("shared memory")
    assert line.status == status
    assert ("--shm-size" in line.fix) == (status != OK)


@pytest.mark.parametrize(("gigabytes", "status"), [(0.5, BROKEN), (5, NOTE), (500, OK)])
def test_disk(monkeypatch, tmp_path, gigabytes, status):
    usage = SimpleNamespace(total=1e12, free=gigabytes * 1e9)
    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda folder: usage)
    lines = lines_of("disk", output=tmp_path / "not" / "yet" / "there")
    assert [(line.name, line.status) for line in lines] == [
        ("disk, runs", status),
        ("disk, weights", status),
    ]


def test_more_threads_than_cores(monkeypatch):
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    line = lines_of("CPU")[0]
    assert line.status == NOTE and "4096 threads" in line.text and "OMP_NUM_THREADS=" in line.fix


# ----------------------------------------------------------------------------------- the datasets
@pytest.fixture
def data(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def coco(root: Path, split: str, images: int, listed: int) -> None:
    folder = root / "coco" / split
    folder.mkdir(parents=True)
    (root / "coco" / "annotations").mkdir(exist_ok=True)
    for k in range(images):
        (folder / f"{k}.jpg").touch()
    content = {"images": [{"file_name": f"{k}.jpg"} for k in range(listed)]}
    (root / "coco" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def found(lines: list[Line]) -> dict[str, tuple[str, str]]:
    return {line.name: (line.status, line.text) for line in lines}


def test_no_datasets(data):
    lines = found(lines_of("datasets"))
    assert lines["shapes"] == (OK, f"made at first use in {data}/shapes")
    assert lines["COCO"] == (NOTE, f"{data}/coco is not there")


def test_a_part_of_coco_and_one_with_images_missing(data):
    coco(data, "train2017", 3, 3)
    coco(data, "val2017", 2, 4)
    lines = found(lines_of("datasets"))
    assert lines["COCO train2017"][0] == NOTE
    assert "3 images" in lines["COCO train2017"][1]
    status, text = lines["COCO val2017"]
    assert status == BROKEN and text.startswith("2 of 4 images are not in ") and "2.jpg" in text


def test_cocos_own_file_is_not_read(data, monkeypatch):
    monkeypatch.setattr(doctor_machine, "SMALL_FILE", 10)
    monkeypatch.setattr(doctor_machine, "COCO_SPLITS", {"train2017": 5, "val2017": 2})
    coco(data, "train2017", 3, 5)
    coco(data, "val2017", 2, 2)
    (data / "coco" / "annotations" / "instances_val2017.json").write_text("no JSON at all")
    lines = lines_of("datasets")
    assert found(lines)["COCO train2017"][0] == BROKEN
    assert "2 are missing" in lines[1].fix
    assert found(lines)["COCO val2017"] == (OK, f"2 images in {data}/coco/val2017")


def test_a_split_that_is_not_there_is_a_note(data):
    coco(data, "val2017", 1, 1)
    assert found(lines_of("datasets"))["COCO train2017"][0] == NOTE


def test_shapes_that_are_not_whole(data):
    for split, count in (("train", 3), ("val", 1)):
        (data / "shapes" / split).mkdir(parents=True)
        for k in range(count):
            (data / "shapes" / split / f"{k}.jpg").touch()
    assert found(lines_of("datasets"))["shapes"][0] == BROKEN  # no meta.json
    meta = data / "shapes" / "meta.json"
    meta.write_text(json.dumps({"num_train": 3, "num_val": 2}))
    status, text = found(lines_of("datasets"))["shapes"]
    assert status == BROKEN and text.endswith("not (3, 2)")
    meta.write_text(json.dumps({"num_train": 3, "num_val": 1}))
    assert found(lines_of("datasets"))["shapes"] == (OK, f"3 + 1 images in {data}/shapes")


# -------------------------------------------------------------------------------------- the table
def test_a_check_that_fails_itself_is_a_line():
    def fails():
        raise KeyError("a bug")

    (line,) = run_checks({"odd": fails})
    assert line == Line(BROKEN, "odd", "does not work: KeyError: 'a bug'")


def test_the_table_counts():
    text = table([Line(OK, "a", "1"), Line(NOTE, "long", "2", "do"), Line(BROKEN, "c", "3")])
    assert text.splitlines() == [
        "ok      a     1",
        "note    long  2",
        "              -> do",
        "BROKEN  c     3",
        "",
        "1 broken: c; 1 notes.",
    ]
