"""Fine-tuning of Hiera-B+: arXiv 2306.00989, table 14b (85.2 % top-1 there; not trained here).

    python pretrain/finetune.py --config-file pretrain/configs/finetune_hiera_bplus.py \
        --num-gpus 8 train.init_checkpoint=mae_hiera_base_plus_224
"""

from .common.finetune import dataloader, lr_multiplier, model, optimizer, train

model.variant = "hiera_bplus"
train.output_dir = "./output/finetune_hiera_bplus"
optimizer.lr = "${linear_lr:1e-3,${dataloader.train.total_batch_size},1024}"
