"""The fence of detectron2_lite: it holds what the toolkit reaches, and nothing else."""

import ast
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import detectron2
import pytest

pytestmark = pytest.mark.lite_only

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(detectron2.__file__).parent
TOOLKIT = ("hiera_det", "pretrain", "tools", "benchmarks", "configs")

# Reached by no name in the toolkit, and there for another reason.
KEPT = {
    "__init__._AbsentFinder.find_spec": "called by Python's import",
    "utils.logger._StdoutHandler.stream": "called by Python's logging",
    "solver.build.get_default_optimizer_params": "optimizer.params of Detectron2's own configs",
    "structures.masks.BitMasks.from_polygon_masks": "for mappers of masks that are not polygons",
}


class Definition:
    """A function, class, method or constant of the lite.

    Attributes:
        name: dotted, below ``detectron2``.
        owner: the class of a method, else None.
        has_bases: whether it is a class with bases.
        mentioned: every identifier that it mentions.
    """

    def __init__(
        self,
        name: str,
        nodes: Iterable[ast.AST],
        owner: "Definition | None" = None,
        has_bases: bool = False,
    ):
        self.name = name
        self.has_bases = has_bases
        self.identifier = name.rpartition(".")[2]
        self.owner = owner
        self.mentioned = set().union(*map(_identifiers, nodes))


def _identifiers(node: ast.AST) -> set[str]:
    """Names, attributes and the parts of imports below a node."""
    found = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            found.add(child.id)
        elif isinstance(child, ast.Attribute):
            found.add(child.attr)
        elif isinstance(child, ast.ImportFrom):
            found.update(alias.name for alias in child.names)
    return found


def _definitions(path: Path) -> Iterator[Definition]:
    """Those of a module; what runs on its import is one without a name."""
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    on_import = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            yield Definition(f"{module}.{node.name}", [node])
        elif isinstance(node, ast.ClassDef):
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            rest = [n for n in node.body if n not in methods]
            parts = [*rest, *node.bases, *node.decorator_list, *node.keywords]
            owner = Definition(f"{module}.{node.name}", parts, has_bases=bool(node.bases))
            yield owner
            for method in methods:
                yield Definition(f"{owner.name}.{method.name}", [method], owner)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield Definition(f"{module}.{target.id}", [node.value])
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            on_import.append(node)
        elif isinstance(node, ast.ImportFrom) and path.name == "__init__.py":
            # What a package hands on from elsewhere, as a class of fvcore, is part of its surface.
            if not node.level and node.module.partition(".")[0] != "detectron2":
                yield from (Definition(f"{module}.{alias.name}", []) for alias in node.names)
    yield Definition(f"{module}.__import__", on_import)


def _overrides_foreign(method: Definition) -> bool:
    """Whether a class outside of the lite, as torch's Module, has such a method and calls it."""
    if not method.owner.has_bases:
        return False
    module, _, name = method.owner.name.rpartition(".")
    cls = getattr(importlib.import_module(f"detectron2.{module}"), name)
    return any(
        method.identifier in vars(base)
        for base in getattr(cls, "__mro__", ())
        if not base.__module__.startswith("detectron2")
    )


def _unreachable(definitions: list[Definition], mentioned: set[str]) -> list[Definition]:
    """Definitions whose name is mentioned neither in the toolkit nor in what is reachable.

    Generous: names are compared without regard to what they belong to.
    """
    mentioned = set(mentioned)
    waiting, reached = list(definitions), set()
    while True:
        new = [
            d
            for d in waiting
            if (d.owner is None or d.owner in reached)
            and (
                d.identifier in mentioned
                or d.identifier.startswith("__")
                or (d.owner is not None and _overrides_foreign(d))
            )
        ]
        if not new:
            return waiting
        reached.update(new)
        mentioned.update(*(d.mentioned for d in new))
        waiting = [d for d in waiting if d not in reached]


def _toolkit() -> Iterator[tuple[Path, ast.Module]]:
    for folder in TOOLKIT:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text())


def _imported(tree: ast.Module) -> Iterator[tuple[str, str | None, str]]:
    """(module of detectron2, name in it or None, what it is called here) of every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "detectron2":
            for alias in node.names:
                yield node.module, alias.name, alias.asname or alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "detectron2":
                    yield alias.name, None, alias.asname or "detectron2"


def _mentioned_by_toolkit() -> set[str]:
    """What its files import from detectron2, and every attribute in them."""
    found = set()
    for _, tree in _toolkit():
        found.update(name for _, name, _ in _imported(tree) if name)
        found.update(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
        found.update(  # methods that a subclass overrides, for the lite to call
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
        )
        for node in ast.walk(tree):  # "detectron2.layers.ShapeSpec", a _target_
            if isinstance(node, ast.Constant) and str(node.value).startswith("detectron2."):
                found.update(node.value.split("."))
    return found


def _lite() -> list[Definition]:
    return [d for path in sorted(PACKAGE.rglob("*.py")) for d in _definitions(path)]


@pytest.fixture(scope="module", autouse=True)
def checkout():
    if not (ROOT / "hiera_det").is_dir():
        pytest.skip(f"no checkout of the toolkit at {ROOT}")


def test_everything_is_reachable_from_the_toolkit():
    kept = {name.rpartition(".")[2] for name in KEPT}
    surplus = sorted(d.name for d in _unreachable(_lite(), _mentioned_by_toolkit() | kept))
    assert not surplus, (
        "nothing in the toolkit reaches these; remove them from detectron2_lite:\n  "
        + "\n  ".join(surplus)
    )


def test_what_is_kept_is_there():
    assert KEPT.keys() <= {d.name for d in _lite()}


def test_the_fence_notices_what_nobody_reaches(tmp_path, monkeypatch):
    """A helper of something dead is dead, a helper of something alive is not."""
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "module.py").write_text(
        "from torch import nn\n"
        "def used(): return _helper() + CONSTANT\n"
        "def _helper(): return 1\n"
        "CONSTANT = 2\n"
        "def dead(): return _helper_of_dead()\n"
        "def _helper_of_dead(): return 3\n"
        "class Alive:\n"
        "    def __init__(self): self.called()\n"
        "    def called(self): pass\n"
        "    def uncalled(self): pass\n"
    )
    dead = {d.name for d in _unreachable(_lite(), {"used", "Alive"})}
    assert dead == {"module.dead", "module._helper_of_dead", "module.Alive.uncalled"}


def test_what_the_toolkit_imports_is_there():
    """Also what it takes from a module or class that it imported, as in ``comm.gather``."""
    absent = []
    for path, tree in _toolkit():
        here = {}
        for module, name, called in _imported(tree):
            try:
                found = importlib.import_module(module)
                here[called] = found if name is None else getattr(found, name)
            except (ImportError, AttributeError) as error:
                absent.append(f"{path.relative_to(ROOT)}: {error}")
        here.pop("detectron2", None)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                owner = here.get(node.value.id)
                if isinstance(owner, ModuleType | type) and not hasattr(owner, node.attr):
                    absent.append(f"{path.relative_to(ROOT)}: {node.value.id}.{node.attr}")
    assert not absent, "not in detectron2_lite:\n  " + "\n  ".join(absent)
