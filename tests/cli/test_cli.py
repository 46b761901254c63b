"""The command `hiera-det`: help without torch, errors in one line, doors with the same options."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hiera_det import __version__
from hiera_det.cli import VERBS, main
from hiera_det.config import load_config
from hiera_det.data.coco_json import max_objects
from hiera_det.data.images import read_image
from hiera_det.engine.launch import report_error

ROOT = Path(__file__).parents[2]
SHAPES = "shapes/mask_rcnn_hiera_shapes.py"
DOORS = [
    path
    for folder in ("tools", "pretrain")
    for path in sorted((ROOT / folder).glob("*.py"))
    if path.read_text().startswith("#!") and "hiera_det.cli" in path.read_text()
]


def python(code: str, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("argv", [[], ["--help"], ["--version"], ["trian"]])
def test_overview_needs_no_torch(argv):
    code = (
        "import sys; from hiera_det.cli import main; status = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; sys.exit(status)"
    )
    done = python(code, *argv)
    if argv == ["trian"]:
        assert done.returncode == 2
        assert done.stderr == "error: hiera-det has no verb 'trian'; did you mean train?\n"
    elif argv == ["--version"]:
        assert done.stdout == f"hiera_det {__version__}\n"
    else:
        assert done.returncode == 0, done.stderr
        assert all(f"\n  {verb} " in done.stdout for verb in VERBS)


def test_help_of_every_verb_has_an_example_and_needs_no_torch():
    code = (
        "import sys\nfrom hiera_det.cli import VERBS, main\n"
        "for verb in VERBS:\n"
        "    try: main([verb, '--help'])\n"
        "    except SystemExit as stop: assert stop.code == 0, verb\n"
        "    print('=' * 9)\n"
        "assert 'torch' not in sys.modules"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    texts = done.stdout.split("=" * 9)[:-1]
    for verb, text in zip(VERBS, texts, strict=True):
        assert f"usage: hiera-det {verb}" in text and f"\n  hiera-det {verb}" in text.replace(
            "    ", "  "
        )


@pytest.mark.parametrize("door", DOORS, ids=lambda path: path.name)
def test_doors_are_a_few_lines(door):
    lines = [line for line in door.read_text().splitlines() if line.strip()]
    assert len(lines) <= 6
    verb = re.search(r'main\(\["([\w-]+)"', door.read_text())[1]
    assert verb in VERBS


def test_every_promised_path_is_there():
    names = {f"{path.parent.name}/{path.name}" for path in DOORS}
    assert names >= {
        "tools/lazyconfig_train_net.py",
        "tools/convert_weights.py",
        "tools/check_data.py",
        "tools/analyze_model.py",
        "tools/benchmark.py",
        "tools/plot_metrics.py",
        "pretrain/train_mae.py",
        "pretrain/visualize_mae.py",
        "pretrain/export.py",
        "pretrain/finetune.py",
        "pretrain/linear_probe.py",
    }


@pytest.mark.parametrize(
    "argv, text",
    [
        (["train", "--config-file", "shapes/mask_rcnn_hiera_shape.py"], "did you mean"),
        (["train", "--config-file", "shapes/mask_rcnn_hiera_shapes.py", "a.b=1"], "no key 'a.b'"),
        (["eval", "--config-file", "shapes/mask_rcnn_hiera_shapes.py"], "say which weights"),
        (["convert", "nowhere.pth", "out.pth"], "nowhere.pth does not exist"),
        (["plot", "nowhere"], "nowhere: no such file"),
        (["reconstruct", "--run", "nowhere", "--output", "a.png"], "no folder of a run"),
        (["train", "--config-file", "flow.yaml"], "flow.yaml is no valid YAML"),
        (["train", "--config-file", "list.yaml"], "list.yaml holds no keys"),
        (["train", "--config-file", "slip.py"], "slip.py is no valid Python"),
        (["train", "--config-file", "missing.py"], "missing.py: No module named 'no_such'"),
        (["train", "--config-file", SHAPES, "train.device=tpu"], "train.device=tpu is no device"),
        (["train", "--config-file", "pretrain/mae_hiera_shapes.py"], "no config of a detector"),
        (["pretrain", "--config-file", SHAPES], "no config of pretraining"),
        (["finetune", "--config-file", SHAPES], "no config of a classifier"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(argv, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow.yaml").write_text("model: [1")
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "slip.py").write_text("def f(:")
    (tmp_path / "missing.py").write_text("import no_such")
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and text in err and len(err.splitlines()) == 1
    assert main([*argv[:1], "--traceback", *argv[1:]]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, text",
    [
        (["pretrain"], "required: --config-file"),
        (["train", "--config-file", "a.py", "--num-gpus", "x"], "'x' must be a whole number"),
        (["train", "--config-file", "a.py", "--num-gpus", "0"], "'0' must be a whole number"),
        (["benchmark", "nothing"], "invalid choice: 'nothing'"),
        (["analyze"], "required"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(argv, text, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("error: ") and len(err.splitlines()) == 1
    assert text in err and f"hiera-det {argv[0]} --help" in err


def test_a_bug_keeps_its_traceback(monkeypatch, capsys):
    """A ValueError from the depths of a library is not the user's."""
    import numpy as np

    from hiera_det.report import curves

    monkeypatch.setattr(curves, "plot_metrics", lambda *_: np.zeros(3).reshape(2, 2))
    assert main(["plot", "anything"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and "cannot reshape" in err


def test_a_slip_of_ours_keeps_its_traceback(capsys, monkeypatch):
    """Python raises it in a module of ours, on a line without a `raise`."""
    from hiera_det.data.loaders import split_batch

    with pytest.raises(ValueError) as slip:
        max_objects()  # the maximum of nothing
    assert report_error(slip.value) == 1 and "Traceback" in capsys.readouterr().err
    with pytest.raises(ImportError) as missing:
        monkeypatch.setitem(sys.modules, "hydra.core.override_parser.overrides_parser", None)
        load_config(SHAPES, ["train.max_iter=1"])
    assert report_error(missing.value) == 2 and "Traceback" not in capsys.readouterr().err
    with pytest.raises(ValueError) as mistake:
        split_batch(5, 2, 1)
    assert report_error(mistake.value) == 2 and "Traceback" not in capsys.readouterr().err


def test_what_resolvers_raise(tmp_path, capsys):
    """A user's JSON is one line without OmegaConf's account of it; a slip in one is a bug."""
    from omegaconf import OmegaConf

    import hiera_det.config  # noqa: F401  registers them

    (tmp_path / "a.json").write_text("[1]")
    OmegaConf.register_new_resolver("slip", lambda: {}["no"], replace=True)
    cfg = OmegaConf.create(
        {
            "json": "???",
            "model": {
                "missing": "${num_classes:${json}}",
                "list": "${num_classes:" + str(tmp_path / "a.json") + "}",
                "slip": "${slip:}",
            },
        }
    )
    for key, status, text in (
        ("missing", 2, "error: Missing mandatory value: json. It has no default"),
        ("list", 2, f"error: {tmp_path}/a.json holds a list"),
        ("slip", 1, "Traceback"),
    ):
        with pytest.raises(Exception) as error:  # noqa: PT011  OmegaConf's own types
            cfg.model[key]
        assert report_error(error.value) == status
        err = capsys.readouterr().err
        assert err.startswith(text) and (status == 1 or len(err.splitlines()) == 1)


class Broken(torch.utils.data.Dataset):
    """Images by name; without one, a slip of ours."""

    def __init__(self, path: str):
        self.path = path

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        return read_image(self.path) if self.path else max_objects()


@pytest.mark.parametrize(
    "name, text", [("none.jpg", "No such file"), ("junk.jpg", "cannot read"), ("", "Traceback")]
)
def test_what_a_worker_of_the_loader_meets(tmp_path, capsys, name, text):
    """The one line of a mistake, not the traceback that torch makes its message of."""
    (tmp_path / "junk.jpg").write_text("junk")
    loader = torch.utils.data.DataLoader(Broken(name and str(tmp_path / name)), num_workers=1)
    with pytest.raises((ValueError, OSError)) as error:
        next(iter(loader))
    assert report_error(error.value) == (2 if name else 1)
    err = capsys.readouterr().err
    assert text in err and name in err
    if name:
        assert err.startswith("error: ") and len(err.splitlines()) == 1


def test_libraries_in_a_folder_of_our_name_are_not_ours(tmp_path, monkeypatch, capsys):
    """A checkout called hiera_det with its virtual environment inside."""
    folder = tmp_path / "hiera_det/.venv/lib/site-packages"
    folder.mkdir(parents=True)
    (folder / "some_library.py").write_text("def f():\n    raise ValueError('from the depths')\n")
    monkeypatch.syspath_prepend(folder)
    import some_library

    with pytest.raises(ValueError) as error:
        some_library.f()
    assert report_error(error.value) == 1 and "Traceback" in capsys.readouterr().err


def test_missing_package_is_one_line(tmp_path):
    """Without torch the command says so, and does not show where it noticed."""
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch; pip install it')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from hiera_det.cli import main;"
        "sys.exit(main(['train', '--config-file', 'shapes/mask_rcnn_hiera_shapes.py']))"
    )
    done = python(code)
    assert done.returncode == 2 and done.stderr.startswith("error: No module named torch")
    assert len(done.stderr.splitlines()) == 1
