"""Fixtures of the conformance suite.

The suite runs on whichever ``detectron2`` is importable, the lite one or the real one. The values
in ``golden/`` were recorded from the real Detectron2; ``golden.json`` says under ``doc`` how each
was made and with which tolerance it compares.
"""

import importlib.abc
import importlib.util
import json
import os
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden"
COCO_TINY = HERE.parents[2] / "shared" / "coco_tiny"
IS_LITE = detectron2.__version__.endswith("+lite")


_SHARED = {
    "golden_models": GOLDEN / "golden_models.py",
    "golden_inputs": GOLDEN / "golden_inputs.py",
    "mutations": HERE / "mutations.py",
}


class _SharedModules(importlib.abc.MetaPathFinder):
    """Makes the modules that tests share importable, whatever pytest's import mode is."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname not in _SHARED:
            return None
        return importlib.util.spec_from_file_location(fullname, _SHARED[fullname])


sys.meta_path.append(_SharedModules())


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "lite_only: states a promise of detectron2_lite that Detectron2 does not make"
    )
    config.addinivalue_line("markers", "slow: takes more than a few seconds")


def pytest_report_header() -> str:
    where = os.path.dirname(detectron2.__file__)
    return f"detectron2 {detectron2.__version__} ({'lite' if IS_LITE else 'real'}) from {where}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if IS_LITE:
        return
    skip = pytest.mark.skip(reason=f"lite_only, and this is detectron2 {detectron2.__version__}")
    for item in items:
        if "lite_only" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def golden() -> Mapping[str, np.ndarray]:
    """Recorded arrays by name; every access returns a fresh array."""
    with np.load(GOLDEN / "golden.npz") as arrays:
        yield arrays


@pytest.fixture()
def golden_json() -> Mapping[str, Any]:
    """Recorded JSON values (numbers, strings, lists, dicts) by name."""
    return json.loads((GOLDEN / "golden.json").read_text())["values"]


def _registered(name: str, json_file: Path, images: Path) -> str:
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_coco_instances

    if name not in DatasetCatalog.list():
        register_coco_instances(name, {}, str(json_file), str(images))
    return name


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """``toy("train")``, ``toy("val")``: registered name of a 3-class COCO-format set.

    20 training and 10 validation images of 256x256; polygons, crowd RLEs, an image without
    annotations, one with only a crowd.
    """
    root = tmp_path_factory.mktemp("toy")
    with zipfile.ZipFile(GOLDEN / "toy.zip") as archive:
        archive.extractall(root)
    return lambda split: _registered(f"golden_toy_{split}", root / f"{split}.json", root / "images")


@pytest.fixture(scope="session")
def coco_tiny() -> Callable[[str], str]:
    """``coco_tiny("train")``, ``coco_tiny("val")``: registered name of 80 real COCO images each.

    They are not part of the repository: without them the test is skipped.
    """
    if not COCO_TINY.is_dir():
        pytest.skip(f"no COCO sample at {COCO_TINY}")
    annotations = COCO_TINY / "annotations"
    return lambda split: _registered(
        f"coco_tiny_{split}",
        annotations / f"instances_{split}2017.json",
        COCO_TINY / f"{split}2017",
    )
