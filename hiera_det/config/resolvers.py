"""OmegaConf resolvers: what configs call as `${name:arguments}`, all registered here.

They are there once `hiera_det.config` is imported. What they need is imported when they are called:
loading a config reads no annotation file.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from omegaconf import OmegaConf

__all__ = ["FORMULAS", "FROM_FILES", "ON_DEMAND", "register_resolvers"]

# Of other values of the config: a saved config keeps them, so that overrides of it still count.
FORMULAS = {
    "iterations": "hiera_det.solver.schedule:iterations",
    "linear_lr": "hiera_det.solver.schedule:linear_lr",
}
# Read from annotation files: a saved config holds the answer, so that it needs no file.
FROM_FILES = {
    "class_names": "hiera_det.data.coco_json:class_names",
    "max_objects": "hiera_det.data.coco_json:max_objects",
    "num_classes": "hiera_det.data.coco_json:num_classes",
    "num_images": "hiera_det.data.coco_json:num_images",
    "num_proposals": "hiera_det.data.coco_json:num_proposals",
}
# Asked when a dataset is opened and not before: a saved config keeps the question.
ON_DEMAND = {
    "register_coco_json": "hiera_det.data.coco_json:registered_name",
}


def register_resolvers() -> None:
    """Registers the three tables, in place of earlier registrations."""
    for name, target in (FORMULAS | FROM_FILES | ON_DEMAND).items():
        OmegaConf.register_new_resolver(
            # A large file takes seconds to read, and a config asks for its values many times.
            name,
            _lazily(target),
            use_cache=name in FROM_FILES,
            replace=True,
        )


def _lazily(target: str) -> Callable[..., Any]:
    """The function "module:name", whose module is imported by the first call."""
    module, name = target.split(":")

    def resolver(*args: Any) -> Any:
        return getattr(import_module(module), name)(*args)

    return resolver
