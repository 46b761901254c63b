"""Fine-tuning of Hiera-L: arXiv 2306.00989, table 14b (86.1 % top-1 there; not trained here).

    python pretrain/finetune.py --config-file pretrain/configs/finetune_hiera_l.py \
        --num-gpus 8 train.init_checkpoint=mae_hiera_large_224
"""

from .common.finetune import dataloader, lr_multiplier, model, optimizer, train

model.variant = "hiera_l"
train.epochs = 50
train.output_dir = "./output/finetune_hiera_l"
optimizer.params.layer_decay = 0.85
optimizer.lr = "${linear_lr:1e-3,${dataloader.train.total_batch_size},1024}"
