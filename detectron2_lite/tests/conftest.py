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

GOLDEN = Path(__file__).parent / "golden"
IS_LITE = detectron2.__version__.endswith("+lite")


class _GoldenModels(importlib.abc.MetaPathFinder):
    """Makes ``import golden_models`` work in tests, whatever pytest's import mode is."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname == "golden_models":
            return importlib.util.spec_from_file_location(fullname, GOLDEN / f"{fullname}.py")
        return None


sys.meta_path.append(_GoldenModels())


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "lite_only: states a promise of detectron2_lite that Detectron2 does not make"
    )


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


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """``toy("train")``, ``toy("val")``: registered name of a 3-class COCO-format set.

    20 training and 10 validation images of 256x256; polygons, crowd RLEs, an image without
    annotations, one with only a crowd.
    """
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_coco_instances

    root = tmp_path_factory.mktemp("toy")
    with zipfile.ZipFile(GOLDEN / "toy.zip") as archive:
        archive.extractall(root)

    def register(split: str) -> str:
        name = f"golden_toy_{split}"
        if name not in DatasetCatalog.list():
            register_coco_instances(name, {}, str(root / f"{split}.json"), str(root / "images"))
        return name

    return register
