"""MAE pretraining of Hiera-T, 1600 epochs: arXiv 2306.00989, table 14a. Not trained here.

    torchrun --nproc-per-node 8 pretrain/train_mae.py \
        --config-file pretrain/configs/mae_hiera_t.py \
        dataloader.train.dataset.root=imagenet/train
"""

from .common.mae import dataloader, lr_multiplier, model, optimizer, train

model.variant = "hiera_t"
model.drop_path_rate = 0.0
train.output_dir = "./output/mae_hiera_t"
