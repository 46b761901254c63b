"""Costs of the shipped configs: one of them in parts, all of COCO as MODEL_ZOO.md's table."""

from collections.abc import Sequence
from pathlib import Path

from hiera_det.config import config_root, load_config

from .cost import PARTS, count_macs, count_parameters, meta_model

__all__ = ["describe", "replace_table", "zoo_table"]

BEGIN = "<!-- made by: hiera-det analyze --table MODEL_ZOO.md -->"
END = "<!-- end of the table -->"
HEADER = """\
| config | parameters (M) | trunk (GFLOPs) | total (GFLOPs) | paper: parameters (M) | \
paper: total (T) | paper: box AP | paper: mask AP |
|---|---:|---:|---:|---:|---:|---:|---:|
"""
# arXiv 2306.00989, table 10: parameters in M, FLOPs in T, box AP, mask AP
PAPER = {
    "mask_rcnn_hiera_b": ("73", "0.6", "52.2", "46.3"),
    "mask_rcnn_hiera_bplus": ("92", "0.6", "53.5", "47.3"),
    "mask_rcnn_hiera_l": ("236", "1.2", "55.0", "48.6"),
}
FAMILIES = ("mask_rcnn_", "cascade_mask_rcnn_", "mask_rcnn_sam2_", "faster_rcnn_")
SIZES = ("t", "s", "b", "bplus", "l", "h")


def describe(name: str, overrides: Sequence[str]) -> str:
    """A table of the parts of one config at its image size."""
    cfg = load_config(name, overrides)
    model = meta_model(cfg.model)
    size = cfg.dataloader.image_size
    parameters, macs = count_parameters(model), count_macs(model, size)
    lines = [f"{name} at {size}x{size} px, 1000 boxes, 100 masks", ""]
    lines.append(f"{'':10}{'parameters':>14}{'GFLOPs':>10}")
    lines += [f"{part:10}{parameters[part]:14,}{macs[part] / 1e9:10.1f}" for part in PARTS]
    lines.append(f"{'total':10}{sum(parameters.values()):14,}{sum(macs.values()) / 1e9:10.1f}")
    return "\n".join(lines)


def zoo_table() -> str:
    """One Markdown row per config of configs/COCO, from the smallest size to the largest."""
    return HEADER + "".join(_row(name) for name in sorted(_coco_leaves(), key=_order))


def _coco_leaves() -> list[str]:
    return [path.stem for path in (config_root() / "COCO").glob("*_rcnn_*.py")]


def _order(name: str) -> tuple[int, int, str]:
    family, size = name.split("hiera_")
    return (
        FAMILIES.index(family),
        SIZES.index(size.split("_")[0]),
        name,
    )


def _row(name: str) -> str:
    cfg = load_config(f"COCO/{name}.py")
    model = meta_model(cfg.model)
    macs = count_macs(model, cfg.dataloader.image_size)
    cells = [
        f"[{name}](configs/COCO/{name}.py)",
        f"{sum(count_parameters(model).values()) / 1e6:.1f}",
        f"{macs['trunk'] / 1e9:.0f}",
        f"{sum(macs.values()) / 1e9:.0f}",
        *PAPER.get(name, ["–"] * 4),
    ]
    return f"| {' | '.join(cells)} |\n"


def replace_table(path: Path) -> None:
    """Puts the table between the markers of a file.

    Raises:
        ValueError: the file has no markers.
    """
    text = path.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path} has no line {BEGIN!r} and later {END!r} to put the table between")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{zoo_table()}{END}{after}")
