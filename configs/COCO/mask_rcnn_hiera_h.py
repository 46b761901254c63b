"""Mask R-CNN, Hiera-H, 100 epochs: not in the paper and not trained here: the recipe is that of B
and L, drop path 0.5 as ViTDet-H.

    python tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_hiera_h.py \
        --num-gpus 8 train.init_checkpoint=mae_hiera_huge_224
"""

from .mask_rcnn_hiera_b import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.trunk.variant = "hiera_h"

train.output_dir = "./output/mask_rcnn_hiera_h"
optimizer.lr = 3e-5  # for the batch of 64
