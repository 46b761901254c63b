"""Registers COCO 2017 under the folder that ``DETECTRON2_DATASETS`` names.

Expected there (default: ``./datasets``)::

    coco/annotations/instances_{train,val}2017.json
    coco/train2017/*.jpg
    coco/val2017/*.jpg

Nothing is opened before a dataset is used.
"""

import os

from detectron2.data.datasets.builtin_meta import coco_instances_meta
from detectron2.data.datasets.coco import register_coco_instances

__all__ = ["register_all_coco"]

# name -> (images, annotations), relative to the root
_COCO_SPLITS = {
    "coco_2017_train": ("coco/train2017", "coco/annotations/instances_train2017.json"),
    "coco_2017_val": ("coco/val2017", "coco/annotations/instances_val2017.json"),
    "coco_2017_val_100": ("coco/val2017", "coco/annotations/instances_val2017_100.json"),
}


def register_all_coco(root: str) -> None:
    """Register ``coco_2017_train``, ``coco_2017_val`` and ``coco_2017_val_100`` under ``root``."""
    for name, (images, annotations) in _COCO_SPLITS.items():
        register_coco_instances(
            name,
            coco_instances_meta(),
            os.path.join(root, annotations),
            os.path.join(root, images),
        )


register_all_coco(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
