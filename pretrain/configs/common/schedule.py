"""Schedule of pretraining and fine-tuning: a run's values, AdamW, and warm-up with a cosine."""

import torch
from detectron2.config import LazyCall as L

from hiera_det.config import load_config
from hiera_det.solver import optimizer_params, warmup_cosine

train = load_config("common/train.py").train
train.epochs = 100
train.warmup_epochs = 5
train.epoch_images = 1_281_167  # set to the number of images found
train.eval_period = 0  # iterations; set from eval_epochs
train.amp.enabled = True
train.checkpointer.update(period=1000, max_to_keep=3)  # iterations
train.seed = 0
# The rate is a formula of the batch already: at every batch it stands for that batch.
train.lr_scaling.base_batch_size = "${dataloader.train.total_batch_size}"

optimizer = L(torch.optim.AdamW)(
    params=L(optimizer_params)(
        model=None,  # set to the model before the optimizer is built
        base_lr="${..lr}",
        layer_decay=1.0,
        decay="matrices",
    ),
    lr=1e-3,
    betas=(0.9, 0.999),
    weight_decay=0.05,
)

lr_multiplier = L(warmup_cosine)(
    max_iter="${train.max_iter}",
    warmup_iters="${iterations:${train.warmup_epochs},${train.epoch_images},"
    "${dataloader.train.total_batch_size}}",
)
