"""AdamW with no decay for norms and position tables (arXiv 2306.00989, table 15)."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

AdamW = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(
        # params.model is set to the model before the optimizer is built
        base_lr="${..lr}",
        weight_decay_norm=0.0,
        # Detectron2 matches the last part of a name exactly: each table needs its own entry
        overrides={
            "pos_embed": {"weight_decay": 0.0},
            "pos_embed_window": {"weight_decay": 0.0},
        },
    ),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.1,
)
