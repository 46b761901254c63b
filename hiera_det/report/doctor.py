"""What an installation has, what of it works, and what to do about the rest.

Every check stands alone: a package that is missing or does not import is a line, never a traceback,
torch included. So nothing outside Python's own library is imported at the head of these modules.
"""

import importlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BROKEN", "NOTE", "OK", "Line", "run_checks", "software_checks", "table", "torch_works"]

OK, NOTE, BROKEN = "ok", "note", "BROKEN"

Version = tuple[int, ...]
EXTRAS = {
    "video": ("av", "scipy"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "fast": ("hotcoco",),
}
EVALUATORS = (  # module, distribution: the fastest exact one first
    ("hotcoco", "hotcoco"),
    ("faster_coco_eval", "faster-coco-eval"),
    ("pycocotools", "pycocotools"),
)
# distribution: oldest version that serves, first that does not
NEEDED: dict[str, tuple[Version, Version]] = {
    "fvcore": ((0,), (99,)),
    "iopath": ((0,), (99,)),
    "omegaconf": ((2, 1), (2, 4)),
    "hydra-core": ((1, 1), (99,)),
    "matplotlib": ((0,), (99,)),
    "tensorboard": ((0,), (99,)),
    "safetensors": ((0,), (99,)),
}


@dataclass(frozen=True)
class Line:
    """One finding; `fix` says what to do where it is not well."""

    status: str  # OK, NOTE or BROKEN
    name: str
    text: str
    fix: str = ""


Check = Callable[[], Iterator[Line]]


def run_checks(checks: dict[str, Check]) -> list[Line]:
    """The lines of all checks; one that fails itself is a broken line of its name."""
    lines = []
    for name, check in checks.items():
        try:
            lines += list(check())
        except Exception as error:
            lines.append(Line(BROKEN, name, _reason(error), _reinstall(name)))
    return lines


def table(lines: list[Line]) -> str:
    """The lines for a terminal, and a last one that counts what is broken."""
    width = max(len(line.name) for line in lines)
    rows = []
    for line in lines:
        rows.append(f"{line.status:6}  {line.name:{width}}  {line.text}".rstrip())
        if line.fix:
            rows.append(f"{'':6}  {'':{width}}  -> {line.fix}")
    broken = [line.name for line in lines if line.status == BROKEN]
    notes = sum(line.status == NOTE for line in lines)
    verdict = f"{len(broken)} broken: {', '.join(broken)}" if broken else "Nothing is broken"
    return "\n".join([*rows, "", f"{verdict}; {notes} notes."])


def torch_works() -> bool:
    """Whether torch imports; if not, its own line says why, and others need not."""
    try:
        import torch  # noqa: F401
    except Exception:
        return False
    return True


def _installed(distribution: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def software_checks() -> dict[str, Check]:
    return {
        "Python": _python,
        "torch": _torch,
        "torchvision": _torchvision,
        "numpy": _numpy,
        "opencv": _opencv,
        "Pillow": _pillow,
        "pycocotools": _pycocotools,
        "packages": _packages,
        "Detectron2": _detectron2,
        "COCO evaluator": _evaluator,
        "extras": _extras,
    }


# ----------------------------------------------------------------------------- one package each
def _python() -> Iterator[Line]:
    text = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Line(OK, "Python", f"{text}, {sys.executable}")  # an older one cannot read this file


def _torch() -> Iterator[Line]:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU alone"
    text = f"{torch.__version__}, built for {build}"
    if _version(torch.__version__) < (2, 4):
        yield Line(BROKEN, "torch", text, 'pip install "torch>=2.4" torchvision')
    else:
        yield Line(OK, "torch", text)


def _torchvision() -> Iterator[Line]:
    if not torch_works():
        return
    import torch
    import torchvision

    # Of another torch, it imports with a warning and fails here.
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [8, 8, 9, 9]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist()
    if kept != [1, 2]:
        fix = "install the torchvision that belongs to this torch"
        yield Line(BROKEN, "torchvision", f"{torchvision.__version__}: nms is wrong: {kept}", fix)
        return
    yield Line(OK, "torchvision", f"{torchvision.__version__}, nms runs")


def _numpy() -> Iterator[Line]:
    import numpy as np

    yield Line(OK, "numpy", np.__version__)


def _opencv() -> Iterator[Line]:
    try:
        import cv2
    except ImportError as error:
        fix = "pip install opencv-python-headless"
        if "lib" in str(error) and ".so" in str(error):  # libGL.so.1: the build with windows
            fix = f"pip uninstall opencv-python && {fix}"
        yield Line(BROKEN, "opencv", _reason(error), fix)
        return
    yield Line(OK, "opencv", cv2.__version__)


def _pillow() -> Iterator[Line]:
    import PIL
    from PIL import features

    missing = [name for name in ("jpg", "zlib", "webp") if not features.check(name)]
    if missing:
        fix = "pip install --force-reinstall Pillow"
        yield Line(BROKEN, "Pillow", f"{PIL.__version__} without {', '.join(missing)}", fix)
    else:
        yield Line(OK, "Pillow", PIL.__version__)


def _pycocotools() -> Iterator[Line]:
    import numpy as np
    import pycocotools.mask as masks

    # Built for another numpy, it imports and fails here.
    area = int(masks.area(masks.encode(np.asfortranarray(np.eye(5, dtype=np.uint8)))))
    status = OK if area == 5 else BROKEN
    version = _installed("pycocotools") or "of unknown version"
    yield Line(status, "pycocotools", version, "" if area == 5 else _reinstall("pycocotools"))


def _packages() -> Iterator[Line]:
    good = []
    for name, (oldest, limit) in NEEDED.items():
        version = _installed(name)
        if version is None:
            yield Line(BROKEN, name, "is missing", f"pip install {name}")
        elif not oldest <= _version(version) < limit:
            wanted = f"{name}>={_dotted(oldest)},<{_dotted(limit)}"
            yield Line(BROKEN, name, f"{version}; needed is {wanted}", f'pip install "{wanted}"')
        else:
            good.append(f"{name} {version}")
    if good:
        yield Line(OK, "packages", ", ".join(good))


def _detectron2() -> Iterator[Line]:
    import detectron2

    version = getattr(detectron2, "__version__", "of unknown version")
    folder = Path(str(detectron2.__file__)).parent
    try:
        importlib.import_module("detectron2.engine")
    except Exception as error:
        yield Line(BROKEN, "Detectron2", f"{version} in {folder}: {_reason(error)}", _OF_DETECTRON2)
        return
    if version.endswith("+lite"):
        yield Line(OK, "Detectron2", f"detectron2_lite {version} in {folder}: in pure Python")
        return
    commit = _commit(folder)
    try:
        importlib.import_module("detectron2._C")
        compiled = "with its compiled _C"
    except ImportError:
        compiled = "without its compiled _C, which nothing here needs"
    where = f"commit {commit}" if commit else f"in {folder}"
    yield Line(OK, "Detectron2", f"the original {version}, {where}, {compiled}")


_OF_DETECTRON2 = (
    "from a checkout, pip install ./detectron2_lite; or Detectron2 itself, from its sources"
)


def _evaluator() -> Iterator[Line]:
    found = [(module, _installed(name)) for module, name in EVALUATORS if _installed(name)]
    if not found:
        yield Line(BROKEN, "COCO evaluator", "none", "pip install pycocotools")
        return
    names = ", ".join(f"{module} {version}" for module, version in found)
    if found[0][0] == "pycocotools":
        fix = 'the fast ones give the same numbers sooner: pip install "hiera_det[fast]"'
        yield Line(NOTE, "COCO evaluator", names, fix)
    else:
        yield Line(OK, "COCO evaluator", names)


def _extras() -> Iterator[Line]:
    for extra, names in EXTRAS.items():
        versions = {name: _installed(name) for name in names}
        missing = [name for name, version in versions.items() if version is None]
        if missing:
            text = f"without {', '.join(missing)}"
            yield Line(NOTE, f"extra {extra}", text, f'if wanted, pip install "hiera_det[{extra}]"')
        else:
            text = ", ".join(f"{name} {version}" for name, version in versions.items())
            yield Line(OK, f"extra {extra}", text)


# ------------------------------------------------------------------------------------ helpers
def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, ModuleNotFoundError):
        return f"is missing: {lines[0]}" if error.name else lines[0]
    return f"does not work: {type(error).__name__}: {lines[0]:.200}"


def _reinstall(name: str) -> str:
    if name == "Detectron2":
        return _OF_DETECTRON2
    if name in ("torch", "torchvision"):
        return "pip install torch torchvision, both together: https://pytorch.org/get-started"
    packages = {"numpy": "numpy", "Pillow": "Pillow", "pycocotools": "pycocotools"}
    return f"pip install --force-reinstall {packages[name]}" if name in packages else ""


def _version(text: str) -> Version:
    """ "2.14.0+cu130" to (2, 14, 0); what is no number ends it."""
    numbers = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _commit(package: Path) -> str | None:
    """The commit that a package was installed from by pip, or whose checkout it lies in."""
    try:
        record = importlib.metadata.distribution("detectron2").read_text("direct_url.json")
        commit = json.loads(record or "{}").get("vcs_info", {}).get("commit_id")
        if commit:
            return commit[:8]
    except (importlib.metadata.PackageNotFoundError, ValueError):
        pass
    git = package.parent / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head[:8]
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text().strip()[:8]
        packed = (git / "packed-refs").read_text().splitlines()
        return next((row.split()[0][:8] for row in packed if row.endswith(" " + name)), None)
    except OSError:
        return None
