"""detectron2_lite. Named as Detectron2, so that pip replaces one by the other."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
INIT = (HERE / "detectron2" / "__init__.py").read_text()

setup(
    name="detectron2",
    version=re.search(r'__version__ = "(.+)"', INIT)[1],
    description="detectron2_lite: the part of Detectron2 that hiera_det uses, in pure Python",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="hiera_det authors",
    packages=find_packages(include=["detectron2*"]),
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.4",
        "torchvision",
        "fvcore",
        "iopath",
        "omegaconf>=2.1,<2.4",
        "hydra-core>=1.1",
        "pycocotools",
        "Pillow",
        "PyYAML",
        "numpy",
        "shapely",  # imported by fvcore when it crops polygons
        "tabulate",
        "termcolor",
        "cloudpickle",
        "tensorboard",
    ],
)
