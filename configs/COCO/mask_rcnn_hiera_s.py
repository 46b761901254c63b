"""Mask R-CNN, Hiera-S, 100 epochs: not in the paper and not trained here: the recipe is that of B,
drop path 0.1 as SAM 2 trains this size.

    python tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_hiera_s.py \
        --num-gpus 8 train.init_checkpoint=mae_hiera_small_224
"""

from .mask_rcnn_hiera_b import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.trunk.variant = "hiera_s"

train.output_dir = "./output/mask_rcnn_hiera_s"
