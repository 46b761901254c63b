"""Names, colours and category ids of a dataset's classes, as a checkpoint carries them."""

from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from hiera_det.data.coco_json import read_coco_json

from .predictions import class_colors

__all__ = ["describe_classes"]


def describe_classes(dataset_name: str, num_classes: int) -> dict[str, Any]:
    """What a registered dataset says of the classes of a model.

    The annotation file is read where nothing else tells the names.

    Returns:
        class_names: list of str; class_colors: list of [r, g, b], 0 to 255; category_ids: the ids
        of the annotation file, list of int. Those that the dataset does not know are left out.
    """
    metadata = MetadataCatalog.get(dataset_name)
    names, ids = _names_and_ids(dataset_name, metadata)
    colors = class_colors(metadata, num_classes)
    described: dict[str, Any] = {"class_colors": [list(color) for color in colors]}
    if len(names) == num_classes:
        described["class_names"] = [str(name) for name in names]
    if len(ids) == num_classes and all(type(k) is int for k in ids):
        described["category_ids"] = ids
    return described


def _names_and_ids(dataset_name: str, metadata: Metadata) -> tuple[list[str], list[Any]]:
    """In the order of the model's outputs; empty lists where nothing tells them."""
    names, id_map = metadata.get("thing_classes"), metadata.get("thing_dataset_id_to_contiguous_id")
    json_file = metadata.get("json_file")
    if not names or not id_map:
        if json_file and Path(json_file).is_file():
            categories = sorted(read_coco_json(json_file)["categories"], key=lambda c: c["id"])
            return [c["name"] for c in categories], [c["id"] for c in categories]
        DatasetCatalog.get(dataset_name)  # whose function may fill them in
        names, id_map = (
            metadata.get("thing_classes"),
            metadata.get("thing_dataset_id_to_contiguous_id"),
        )
    return list(names or []), sorted(id_map or {}, key=lambda k: id_map[k])
