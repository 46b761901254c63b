"""Fine-tuning on ImageNet-1K after 1600 epochs of pretraining: arXiv 2306.00989, table 14b."""

import torch
from detectron2.config import LazyCall as L

from hiera_det.modeling.classifier import build_classifier
from hiera_det.solver.schedule import warmup_cosine
from pretrain.classify import ClassificationLoss, ClassImages, build_test_loader
from pretrain.data import build_pretrain_loader
from pretrain.optim import param_groups

model = L(build_classifier)(
    variant="hiera_b",
    num_classes=1000,  # set to the number of sub-folders found
    drop_path_rate=0.1,
    act_checkpoint=False,
)

_root = "${oc.env:DETECTRON2_DATASETS,datasets}/imagenet"
dataloader = dict(
    input_size=(224, 224),  # px
    train=L(build_pretrain_loader)(
        dataset=L(ClassImages)(
            root=f"{_root}/train",
            input_size="${dataloader.input_size}",
            crop_scale=(0.08, 1.0),
            rand_augment=9,
            max_unreadable=100,
        ),
        total_batch_size=1024,  # of an optimizer step, whatever the number of processes
        images_per_process=128,  # at once; the rest is accumulated
        num_workers=8,
    ),
    test=L(build_test_loader)(
        dataset=L(ClassImages)(
            root=f"{_root}/val", input_size="${dataloader.input_size}", max_unreadable=0
        ),
        batch_size=128,
        num_workers=8,
    ),
)

train = dict(
    output_dir="./output",
    init_checkpoint="",  # an encoder or autoencoder, official or of this project
    max_iter="${iterations:${train.epochs},${train.epoch_images},"
    "${dataloader.train.total_batch_size}}",
    epochs=100,
    warmup_epochs=5,
    epoch_images=1_281_167,  # set to the number of images found
    eval_epochs=5,
    loss=L(ClassificationLoss)(
        num_classes="${model.num_classes}",
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
        mixup=0.8,
        cutmix=1.0,
        label_smoothing=0.1,
    ),
    amp=dict(enabled=True, precision="bf16"),  # or fp16 (CUDA only, with a loss scaler)
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=1000, max_to_keep=3),  # iterations
    log_period=20,  # iterations
    clip_grad_norm=0.0,  # L2 norm that gradients are clipped to; 0 does not clip
    device="cuda",  # the CPU is used where there is no GPU
    seed=0,
)

optimizer = L(torch.optim.AdamW)(
    params=L(param_groups)(
        # params.model is set to the model before the optimizer is built
        lr="${..lr}",
        weight_decay="${..weight_decay}",
        layer_decay=0.7,
    ),
    lr="${linear_lr:2e-3,${dataloader.train.total_batch_size},1024}",
    betas=(0.9, 0.999),
    weight_decay=0.05,
)

lr_multiplier = L(warmup_cosine)(
    max_iter="${train.max_iter}",
    warmup_iters="${iterations:${train.warmup_epochs},${train.epoch_images},"
    "${dataloader.train.total_batch_size}}",
)
