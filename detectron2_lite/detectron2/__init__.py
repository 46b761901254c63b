"""detectron2_lite: the part of Detectron2's interface that ``hiera_det`` uses, in pure Python.

It answers to the import name ``detectron2`` and is installed *instead of* Detectron2, never beside
it. What Detectron2 has and this distribution has not raises an error that says so.
"""

import importlib
import importlib.abc
import sys
from collections.abc import Callable
from typing import Any, NoReturn

__version__ = "0.6+lite"


class _AbsentFinder(importlib.abc.MetaPathFinder):
    """Last on ``sys.meta_path``: says what an absent ``detectron2.*`` name means.

    ``from package import Name`` also ends here, since Python then tries ``package.Name`` as a
    module. A plain ImportError is needed: the import system swallows ModuleNotFoundError there.
    """

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname.startswith("detectron2."):
            raise ImportError(absent_message(fullname), name=fullname)


def absent_message(name: str) -> str:
    """Error text for ``name``, something that only the full Detectron2 has."""
    return (
        f"{name} is not in detectron2_lite; install Detectron2: "
        "<https://github.com/facebookresearch/detectron2>"
    )


def absent_attributes(package: str) -> Callable[[str], NoReturn]:
    """Make the ``__getattr__`` of a package: ``__getattr__ = absent_attributes(__name__)``.

    It imports a submodule that is there and raises AttributeError for anything else.
    """

    def __getattr__(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return importlib.import_module(f"{package}.{name}")
        except ImportError as error:
            raise AttributeError(str(error)) from error

    return __getattr__


__getattr__ = absent_attributes(__name__)
sys.meta_path.append(_AbsentFinder())
