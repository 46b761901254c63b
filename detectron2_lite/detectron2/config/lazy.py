"""Python files as configs.

A config file is plain Python. It may import other config files relatively
(``from ..common.train import train``), which runs them afresh each time, so that a config that
changes what it imported changes only its own copy.
"""

import ast
import builtins
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import cloudpickle
import yaml
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import _convert_target_to_string
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode

__all__ = ["LazyCall", "LazyConfig"]

# ``__package__`` of every config file; the import hook knows them by it.
_PACKAGE = "detectron2._lazy_config"


class LazyCall:
    """Describe a call instead of making it: ``LazyCall(nn.Conv2d)(in_channels=3, ...)``.

    The result is a ``DictConfig`` of the keyword arguments plus ``_target_``, for ``instantiate``.
    """

    def __init__(self, target: Callable[..., Any] | str | Mapping[str, Any]) -> None:
        """Args:
        target: a callable, the dotted path of one, or a config of one.
        """
        if not (callable(target) or isinstance(target, str | Mapping)):
            raise TypeError(
                f"LazyCall wants a callable, the path of one or a config of one, not {target!r}"
            )
        self._target = target

    def __call__(self, **kwargs: Any) -> DictConfig:
        target = self._target
        if dataclasses.is_dataclass(target):
            # omegaconf would take the class for a schema.
            target = _convert_target_to_string(target)
        return DictConfig({**kwargs, "_target_": target}, flags={"allow_objects": True})


def _to_config(value: Any) -> Any:
    if isinstance(value, dict):
        return DictConfig(value, flags={"allow_objects": True})
    return value


def _run_file(filename: str) -> dict[str, Any]:
    """Execute a config file and return its globals."""
    with PathManager.open(filename) as file:
        source = file.read()
    try:
        ast.parse(source)
    except SyntaxError as error:
        raise SyntaxError(f"Config file {filename}, line {error.lineno}: {error.msg}") from error
    namespace = {
        "__name__": f"{_PACKAGE}.config", "__package__": _PACKAGE, "__file__": filename
    }  # fmt: skip
    exec(compile(source, filename, "exec"), namespace)
    return namespace


def _relative_file(importer: str, module: str, level: int) -> str:
    """File that ``from <level dots><module> import ...`` in config file ``importer`` means."""
    folder = os.path.dirname(importer)
    for _ in range(level - 1):
        folder = os.path.dirname(folder) if folder else os.pardir
    path = os.path.join(folder, *module.split("."))
    if not module or os.path.isdir(path):
        raise ImportError(
            f"{importer} imports from the folder {path!r}: a config file can import names of "
            "another config file (from .file import name), not files of a folder"
        )
    if not os.path.isfile(f"{path}.py"):
        raise ImportError(f"Cannot import from {path}.py, as {importer} does: it does not exist")
    return f"{path}.py"


@contextmanager
def _config_imports() -> Iterator[None]:
    """Let relative imports within config files find config files."""
    python_import = builtins.__import__

    def config_import(name, globals=None, locals=None, fromlist=(), level=0):  # noqa: A002
        importer = globals or {}
        if level == 0 or importer.get("__package__") != _PACKAGE:
            return python_import(name, globals, locals, fromlist, level)
        filename = _relative_file(importer["__file__"], name, level)
        content = _run_file(filename)
        module = ModuleType(filename)
        names = [n for n in content if not n.startswith("_")] if "*" in fromlist else fromlist
        vars(module).update({n: _to_config(content[n]) for n in names if n in content})
        return module

    builtins.__import__ = config_import
    try:
        yield
    finally:
        builtins.__import__ = python_import


class LazyConfig:
    """Load, change and save configs."""

    @staticmethod
    def load(filename: str, keys: str | tuple[str, ...] | None = None) -> Any:
        """Load a config file. Like any Python file it may run anything: load only what you trust.

        Args:
            filename: a .py, .yaml or .yml file.
            keys: return this name of the file, or the tuple of these names, in place of all.

        Returns:
            A ``DictConfig``. Of a .py file it holds the dicts and configs whose names do not start
            with ``_``.
        """
        suffix = os.path.splitext(filename)[1]
        if suffix not in (".py", ".yaml", ".yml"):
            raise ValueError(f"Config file {filename} is neither a .py nor a .yaml file")
        if suffix == ".py":
            with _config_imports():
                content = _run_file(filename)
        else:
            with PathManager.open(filename) as file:
                # Unsafe, since ``save`` writes objects as Python tags. ``_target_`` can name any
                # callable in any case.
                content = yaml.unsafe_load(file)
        if keys is not None:
            if isinstance(keys, str):
                return _to_config(content[keys])
            return tuple(_to_config(content[key]) for key in keys)
        if suffix == ".py":
            content = {
                name: _to_config(value)
                for name, value in content.items()
                if isinstance(value, dict | DictConfig | ListConfig) and not name.startswith("_")
            }
        return OmegaConf.create(content, flags={"allow_objects": True})

    @staticmethod
    def save(cfg: DictConfig, filename: str) -> None:
        """Save a config as YAML that ``load`` reads, targets as dotted paths.

        Where it holds something that YAML cannot (a lambda, say), a warning says so and
        ``filename``.pkl holds the config as written by cloudpickle.
        """
        try:
            text = _to_yaml(cfg)
            with PathManager.open(filename, "w") as file:
                file.write(text)
            yaml.unsafe_load(text)  # raises where it holds what YAML cannot restore
        except Exception as error:
            with PathManager.open(f"{filename}.pkl", "wb") as file:
                cloudpickle.dump(cfg, file)
            logging.getLogger(__name__).warning(
                "%s cannot be loaded again as YAML (%s: %s); the config is pickled in %s.pkl",
                filename, type(error).__name__, error, filename,
            )  # fmt: skip

    @staticmethod
    def apply_overrides(cfg: DictConfig, overrides: list[str]) -> DictConfig:
        """Change ``cfg`` in place by strings in hydra's grammar and return it.

        ``a.b=3``, ``a.list.0=x``, ``a={x:1}``, ``+a.new=null``. Values with ``=`` or ``?`` need
        quotes: ``"a.path='w.pth?matching_heuristics=True'"``.

        Raises:
            KeyError: the path goes through something that is no config.
            NotImplementedError: ``~a``, a deletion.
            hydra.errors.OverrideParseException: a string is not in the grammar.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser

        for override in OverridesParser.create().parse_overrides(overrides):
            key = override.key_or_group
            if override.is_delete():
                raise NotImplementedError(f"Override {override.input_line!r}: cannot delete")
            if override.is_sweep_override():
                raise ValueError(
                    f"Override {override.input_line!r} is several values; for a list, use [...]"
                )
            parts = key.split(".")
            for count in range(1, len(parts)):
                prefix = ".".join(parts[:count])
                node = OmegaConf.select(cfg, prefix, default=None)
                if node is not None and not OmegaConf.is_config(node):
                    raise KeyError(
                        f"Override {override.input_line!r}: {prefix} is not a config but {node!r}"
                    )
            OmegaConf.update(cfg, key, override.value(), merge=True)
        return cfg


def _targets_to_strings(content: Any) -> Any:
    """Copy nested dicts and lists with every callable ``_target_`` as its dotted path."""
    if isinstance(content, dict):
        content = {key: _targets_to_strings(value) for key, value in content.items()}
        if callable(content.get("_target_")):
            content["_target_"] = _convert_target_to_string(content["_target_"])
        return content
    return [_targets_to_strings(v) for v in content] if isinstance(content, list) else content


def _to_yaml(cfg: DictConfig) -> str:
    content = OmegaConf.to_container(cfg, structured_config_mode=SCMode.INSTANTIATE)
    content = _targets_to_strings(content)
    # One line per innermost list or dict, however long: easy to compare by line.
    return yaml.dump(content, default_flow_style=None, width=float("inf"), allow_unicode=True)
