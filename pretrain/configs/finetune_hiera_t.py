"""Fine-tuning of Hiera-T: arXiv 2306.00989, table 14b (82.8 % top-1 there; not trained here).

    python pretrain/finetune.py --config-file pretrain/configs/finetune_hiera_t.py \
        --num-gpus 8 train.init_checkpoint=mae_hiera_tiny_224
"""

from .common.finetune import dataloader, lr_multiplier, model, optimizer, train

model.variant = "hiera_t"
train.epochs = 300
train.output_dir = "./output/finetune_hiera_t"
optimizer.params.layer_decay = 0.65
