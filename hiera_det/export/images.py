"""Images to compare an exported file with its model on."""

import os
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from hiera_det.data.images import ImageFiles, read_image

__all__ = ["sample_images"]

GENERATED = 4


def sample_images(
    cfg: DictConfig, folder: str | os.PathLike | None, most: int = 10
) -> tuple[list[tuple[str, np.ndarray]], str]:
    """Some images, evenly spaced: of a folder, or else of the config's test set, or else generated.

    Args:
        cfg: of a detector.
        folder: searched with its sub-folders.
        most: how many, if there are so many.

    Returns:
        (name, uint8 (H, W, 3) RGB) of each, and where they are from, in words.

    Raises:
        FileNotFoundError, ValueError: there is no such folder, no image in it, or one is damaged.
    """
    pixels = cfg.dataloader.get("intensity_range"), cfg.dataloader.get("page")
    if folder is not None:
        files = ImageFiles(os.fspath(folder))
        paths = [files.path(k) for k in range(len(files))]
        where = f"of {folder}"
    else:
        paths, where = _test_paths(cfg)
    if not paths:
        return _generated(int(cfg.dataloader.image_size)), "generated"
    chosen = [paths[k * len(paths) // min(most, len(paths))] for k in range(min(most, len(paths)))]
    return [(Path(path).name, read_image(path, "RGB", *pixels)) for path in chosen], where


def _test_paths(cfg: DictConfig) -> tuple[list[str], str]:
    """Files of the test set, or none where it is not on this machine."""
    name = OmegaConf.select(cfg, "dataloader.test.dataset.names")
    try:
        if not os.path.isfile(MetadataCatalog.get(name).json_file):  # shapes would be made
            return [], ""
        paths = [record["file_name"] for record in DatasetCatalog.get(name)]
    except Exception:  # not registered, damaged, several: whatever stands in the way
        return [], ""
    return [path for path in paths if os.path.isfile(path)], f"of {name}"


def _generated(side: int) -> list[tuple[str, np.ndarray]]:
    """Scenes of shapes, square, wide and tall."""
    from hiera_det.data.shapes_draw import draw_scene

    side = min(side, 512)
    shapes = [(side, side), (side * 2 // 3, side), (side, side // 2), (side // 2, side // 2)]
    images = []
    for k, (height, width) in enumerate(shapes[:GENERATED]):
        image, _ = draw_scene(np.random.default_rng(k), side, num_objects=8)
        images.append((f"generated {k}", np.ascontiguousarray(image[:height, :width])))
    return images
