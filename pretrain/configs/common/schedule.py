"""What pretraining and fine-tuning share: a run's options, AdamW, and warm-up with a cosine."""

import torch
from detectron2.config import LazyCall as L

from hiera_det.solver.schedule import warmup_cosine
from pretrain.optim import param_groups

train = dict(
    output_dir="./output",
    init_checkpoint="",
    max_iter="${iterations:${train.epochs},${train.epoch_images},"
    "${dataloader.train.total_batch_size}}",
    epochs=100,
    warmup_epochs=5,
    epoch_images=1_281_167,  # set to the number of images found
    amp=dict(enabled=True, precision="bf16"),  # or fp16 (CUDA only, with a loss scaler)
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=1000, max_to_keep=3),  # iterations
    log_period=20,  # iterations
    eval_period=0,  # iterations; set from eval_epochs
    clip_grad_norm=0.0,  # L2 norm that gradients are clipped to; 0 does not clip
    device="cuda",  # the CPU is used where there is no GPU
    seed=0,
)

optimizer = L(torch.optim.AdamW)(
    params=L(param_groups)(
        # params.model is set to the model before the optimizer is built
        lr="${..lr}",
        weight_decay="${..weight_decay}",
        layer_decay=1.0,
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
