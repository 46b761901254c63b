"""What detectron2_lite has not got says so; what it has imports quietly."""

import importlib
import os
import pkgutil
import subprocess
import sys

import detectron2
import pytest

pytestmark = pytest.mark.lite_only

PACKAGES = [
    "detectron2",
    *(
        f"detectron2.{name}"
        for name in "checkpoint config data engine evaluation layers modeling solver".split()
        + "structures utils data.datasets data.samplers data.transforms".split()
        + "modeling.backbone modeling.meta_arch modeling.proposal_generator".split()
        + ["modeling.roi_heads"]
    ),
]


def _message(name):
    return f"{name} is not in detectron2_lite; install Detectron2: <https://github.com/"


@pytest.mark.parametrize("package", PACKAGES)
def test_absent_names_of_every_package(package):
    """As a submodule, as an imported name, as an attribute."""
    name = f"{package}.absent_thing"
    with pytest.raises(ImportError, match=_message(name)):
        importlib.import_module(name)
    with pytest.raises(ImportError, match=_message(name)):
        exec(f"from {package} import absent_thing")
    with pytest.raises(AttributeError, match=_message(name)):
        _ = importlib.import_module(package).absent_thing
    assert not hasattr(importlib.import_module(package), "absent_thing")


@pytest.mark.parametrize(
    "line",
    [
        "from detectron2.config import get_cfg",
        "from detectron2.config import CfgNode",
        "from detectron2.engine import DefaultPredictor",
        "from detectron2.engine import DefaultTrainer",
        "from detectron2.modeling import RetinaNet",
        "from detectron2.modeling import build_model",
        "from detectron2 import model_zoo",
        "import detectron2.model_zoo",
        "import detectron2.projects.point_rend",
        "import detectron2.export",
    ],
)
def test_well_known_absent_names(line):
    with pytest.raises(ImportError, match="not in detectron2_lite; install Detectron2"):
        exec(line)


def test_absent_target_in_a_config():
    """A config of the full Detectron2 fails with the same message."""
    from detectron2.config import instantiate

    with pytest.raises(ImportError, match="not in detectron2_lite; install Detectron2"):
        instantiate({"_target_": "detectron2.modeling.backbone.ResNet"})


def test_error_inside_a_present_module_is_its_own():
    """Only absence is explained: other ImportErrors pass."""
    with pytest.raises(ImportError, match="cannot import name"):
        exec("from detectron2.solver.build import build_optimizer")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        importlib.import_module("no_such_package")


def test_every_package_is_listed():
    """So that the first test covers a package that is added."""
    found = pkgutil.walk_packages(detectron2.__path__, "detectron2.")
    assert {"detectron2", *(m.name for m in found if m.ispkg)} == set(PACKAGES)


def _python(code, *options):
    root = os.path.dirname(os.path.dirname(detectron2.__file__))
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_are_quiet():
    """Importing gives no warning and no output."""
    modules = "detectron2.engine, detectron2.modeling, detectron2.data, detectron2.evaluation"
    done = _python(f"import {modules}", "-W", "error")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_engine_imports_no_detection_code():
    """A training script's imports stay fast: what knows of detection comes when it is used."""
    done = _python(
        "import sys, detectron2.engine\n"
        "heavy = ['detectron2.modeling', 'detectron2.data', 'detectron2.evaluation']\n"
        "heavy += ['pycocotools', 'cv2', 'tensorboard']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr
