"""Packages `hiera_det` and `pretrain`; configs and benchmarks travel inside `hiera_det`.

`detectron2` is not among the requirements on purpose: no package index has the name, so anyone
could take it. It is installed beside, from ./detectron2_lite or from Detectron2's own sources.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "hiera_det/__init__.py").read_text(), re.M)
INSIDE = {  # hiera_det.configs.COCO: configs/COCO
    ".".join(["hiera_det", *folder.relative_to(ROOT).parts]): str(folder.relative_to(ROOT))
    for top in ("configs", "benchmarks")
    for folder in [ROOT / top, *sorted((ROOT / top).rglob("*"))]
    if folder.is_dir() and folder.name != "__pycache__"
}

VIDEO = ["av>=14.2", "scipy"]  # frames in and out; ids of tracks
ONNX = ["onnx", "onnxruntime", "onnxscript"]
FAST = ["hotcoco"]  # COCO evaluation, and where AP is lost

setup(
    name="hiera_det",
    version=VERSION.group(1),
    description="Hiera as a Detectron2 backbone: Mask R-CNN and Cascade Mask R-CNN on COCO",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["hiera_det*", "pretrain*"]), *INSIDE],
    package_dir=INSIDE,
    package_data={name: ["*.py"] for name in INSIDE}
    | {"hiera_det": ["py.typed"], "hiera_det.report.page": ["*.html", "*.css", "*.js"]},
    entry_points={"console_scripts": ["hiera-det = hiera_det.cli:console"]},
    install_requires=[
        "torch>=2.4",
        "torchvision",
        "numpy",
        "fvcore",
        "iopath",
        "omegaconf>=2.1,<2.4",
        "hydra-core>=1.1",
        "pycocotools",
        "opencv-python-headless",
        "Pillow",
        "matplotlib",
        "tensorboard",
        "safetensors",
        "tqdm",
    ],
    extras_require={
        "video": VIDEO,
        "onnx": ONNX,
        "fast": FAST,
        "test": [
            *VIDEO,
            *ONNX,
            *FAST,
            "pytest",
            "pytest-xdist",
            "timm",
            "hiera-transformer",
            "transformers",
            "yacs",
            "faster-coco-eval",
        ],
        "dev": ["ruff>=0.17,<0.18", "mypy>=1.10"],
    },
)
