"""MAE pretraining as in arXiv 2306.00989, table 14a, for images of ImageNet-1K.

The paper's learning rate stands for a batch of 4096; here it follows the batch in proportion. The
paper does not say how the warm-up starts and where the cosine ends: 0.001 of the rate, and 0.
"""

import torch
from detectron2.config import LazyCall as L

from hiera_det.solver.schedule import warmup_cosine
from pretrain.data import PretrainImages, build_pretrain_loader
from pretrain.mae import build_mae
from pretrain.optim import param_groups

model = L(build_mae)(
    variant="hiera_b",
    mask_ratio=0.6,
    target="pixels",  # or "hog"
    input_size=(224, 224),  # px
    pos_embed="absolute",  # or "absolute_win"
    drop_path_rate=0.0,
    decoder_embed_dim=512,
    decoder_depth=8,
    decoder_num_heads=16,
    decoder_pos_init="normal",  # or "sincos", for runs that are short
    act_checkpoint=False,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)

dataloader = dict(
    train=L(build_pretrain_loader)(
        dataset=L(PretrainImages)(
            root="${oc.env:DETECTRON2_DATASETS,datasets}/imagenet/train",
            input_size="${model.input_size}",
            mask_ratio="${model.mask_ratio}",
            crop_scale=(0.2, 1.0),
            flip=True,
            max_unreadable=100,
        ),
        total_batch_size=4096,  # of an optimizer step, whatever the number of processes
        images_per_process=256,  # at once; the rest is accumulated
        num_workers=8,
    ),
)

train = dict(
    output_dir="./output",
    init_checkpoint="",  # an autoencoder, official or of this project, or an encoder alone
    max_iter="${iterations:${train.epochs},${train.epoch_images},"
    "${dataloader.train.total_batch_size}}",
    epochs=1600,
    warmup_epochs=40,
    epoch_images=1_281_167,  # set to the number of images found
    amp=dict(enabled=True, precision="bf16"),  # or fp16 (CUDA only, with a loss scaler)
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=1000, max_to_keep=3),  # iterations
    log_period=20,  # iterations
    picture_epochs=20,  # between two pictures of reconstructions; 0 draws the last one alone
    num_pictures=8,
    clip_grad_norm=0.0,  # L2 norm that gradients are clipped to; 0 does not clip
    device="cuda",  # the CPU is used where there is no GPU
    seed=0,
)

optimizer = L(torch.optim.AdamW)(
    params=L(param_groups)(
        # params.model is set to the model before the optimizer is built
        lr="${..lr}",
        weight_decay="${..weight_decay}",
    ),
    lr="${linear_lr:8e-4,${dataloader.train.total_batch_size},4096}",
    betas=(0.9, 0.95),
    weight_decay=0.05,
)

lr_multiplier = L(warmup_cosine)(
    max_iter="${train.max_iter}",
    warmup_iters="${iterations:${train.warmup_epochs},${train.epoch_images},"
    "${dataloader.train.total_batch_size}}",
)
