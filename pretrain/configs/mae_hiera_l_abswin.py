"""MAE pretraining of Hiera-L for detection: the position embedding is absolute win (arXiv
2311.05613), which holds at any input size. Recipe of mae_hiera_l.py. Not trained here.

    torchrun --nproc-per-node 8 pretrain/train_mae.py \
        --config-file pretrain/configs/mae_hiera_l_abswin.py \
        dataloader.train.dataset.root=imagenet/train
"""

from .mae_hiera_l import dataloader, lr_multiplier, model, optimizer, train

model.pos_embed = "absolute_win"
train.output_dir = "./output/mae_hiera_l_abswin"
