"""Config files by path or by name: one search over the folders of configs that ship."""

import difflib
from pathlib import Path

__all__ = ["config_root", "config_roots", "find_config"]


def config_root() -> Path:
    """The folder of the detection configs: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def config_roots() -> dict[str, Path]:
    """The folders of configs that ship, by what the names of their configs begin with."""
    beside = Path(__file__).resolve().parents[2]  # of a checkout, or site-packages
    return {"": config_root(), "pretrain/": beside / "pretrain" / "configs"}


def find_config(name: str | Path) -> Path:
    """The file of a config.

    Args:
        name: a path; or, from any folder, the name of a config that ships:
            "COCO/mask_rcnn_hiera_b", "pretrain/mae_hiera_b.py", also as its path in a
            checkout, "configs/COCO/…" or "pretrain/configs/…". A file at that path goes first.

    Raises:
        FileNotFoundError: neither; names the nearest.
    """
    path = Path(name).expanduser()
    found = path if path.is_file() else _shipped(path.as_posix())
    if found is None:
        near = _nearest(path)
        raise FileNotFoundError(f"no config file {str(name)!r}; did you mean {' or '.join(near)}?")
    return found


def _shipped(name: str) -> Path | None:
    for prefix, root in reversed(config_roots().items()):  # "" fits every name: last
        for start in (f"{prefix}configs/", prefix):
            rest = name.removeprefix(start)
            files = (root / rest, root / f"{rest}.py")
            file = next((f for f in files if f.is_file()), None)
            if name.startswith(start) and file:
                return file
    return None


def _nearest(path: Path) -> list[str]:
    """Names like that of `path` in its folder, else the names of shipped configs like it."""
    beside = {p.name: str(p) for p in path.parent.glob("*.py")}
    same_folder = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.4)
    if same_folder:
        return [beside[name] for name in same_folder]
    names = sorted(
        prefix + p.relative_to(root).as_posix()
        for prefix, root in config_roots().items()
        for p in root.rglob("*.py")
        if "common" not in p.parts and p.name != "__init__.py"
    )
    asked = path.as_posix().removeprefix("configs/").replace("pretrain/configs/", "pretrain/")
    return difflib.get_close_matches(asked, names, n=3, cutoff=0.4) or names
