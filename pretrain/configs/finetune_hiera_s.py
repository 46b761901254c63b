"""Fine-tuning of Hiera-S: arXiv 2306.00989, table 14b (83.8 % top-1 there; not trained here).

    python pretrain/finetune.py --config-file pretrain/configs/finetune_hiera_s.py \
        --num-gpus 8 train.init_checkpoint=mae_hiera_small_224
"""

from .common.finetune import dataloader, lr_multiplier, model, optimizer, train

model.variant = "hiera_s"
train.epochs = 200
train.output_dir = "./output/finetune_hiera_s"
optimizer.params.layer_decay = 0.65
