"""Fine-tuning of Hiera-B: arXiv 2306.00989, table 14b (84.5 % top-1 there; not trained here).

    python pretrain/finetune.py --config-file pretrain/configs/finetune_hiera_b.py \
        --num-gpus 8 train.init_checkpoint=mae_hiera_base_224
"""

from .common.finetune import dataloader, lr_multiplier, model, optimizer, train

model.variant = "hiera_b"
train.output_dir = "./output/finetune_hiera_b"
