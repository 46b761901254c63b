"""Cascade Mask R-CNN, Hiera-H, 100 epochs: not in the paper and not trained here; the recipe of
mask_rcnn_hiera_h.py with ViTDet's cascade heads.

    python tools/lazyconfig_train_net.py \
        --config-file configs/COCO/cascade_mask_rcnn_hiera_h.py \
        --num-gpus 8 train.init_checkpoint=mae_hiera_huge_224
"""

from ..common.models.cascade_mask_rcnn_hiera import model
from .mask_rcnn_hiera_h import dataloader, lr_multiplier, optimizer, train
from .mask_rcnn_hiera_h import model as _mask_rcnn

model.backbone = _mask_rcnn.backbone

train.output_dir = "./output/cascade_mask_rcnn_hiera_h"
