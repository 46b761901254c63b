"""Cascade Mask R-CNN, Hiera-B+, 100 epochs: not in the paper and not trained here; the recipe of
mask_rcnn_hiera_bplus.py with ViTDet's cascade heads.

    python tools/lazyconfig_train_net.py \
        --config-file configs/COCO/cascade_mask_rcnn_hiera_bplus.py \
        --num-gpus 8 train.init_checkpoint=mae_hiera_base_plus_224
"""

from ..common.models.cascade_mask_rcnn_hiera import model
from .mask_rcnn_hiera_bplus import dataloader, lr_multiplier, optimizer, train
from .mask_rcnn_hiera_bplus import model as _mask_rcnn

model.backbone = _mask_rcnn.backbone

train.output_dir = "./output/cascade_mask_rcnn_hiera_bplus"
