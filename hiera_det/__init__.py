"""Hiera for detection: the trunk, its Detectron2 backbone, weights, data and engine parts.

import hiera_det
cfg = hiera_det.get_config("COCO/mask_rcnn_hiera_b.py")
"""

__version__ = "0.2.0"
__all__ = ["__version__", "get_config"]


def get_config(name: str):
    """Loads a config that ships: "COCO/mask_rcnn_hiera_b.py", "pretrain/mae_hiera_b.py".

    Returns:
        omegaconf.DictConfig with the keys model, dataloader, train, optimizer, lr_multiplier.

    Raises:
        FileNotFoundError: no such config; names the nearest.
    """
    from .config import load_config

    return load_config(name)
