"""AdamW with no decay for norms and position tables (arXiv 2306.00989, table 15)."""

import torch
from detectron2.config import LazyCall as L

from hiera_det.solver import optimizer_params

AdamW = L(torch.optim.AdamW)(
    params=L(optimizer_params)(
        model=None,  # set to the model before the optimizer is built
        base_lr="${..lr}",
        layer_decay=1.0,  # the paper uses none
    ),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.1,
)
