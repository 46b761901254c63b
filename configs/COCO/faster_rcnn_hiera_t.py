"""Faster R-CNN, Hiera-T, 100 epochs: boxes alone, for data without masks. Not in the paper and not
trained here; the recipe of mask_rcnn_hiera_t.py.

    python tools/lazyconfig_train_net.py --config-file configs/COCO/faster_rcnn_hiera_t.py \
        --num-gpus 8 train.init_checkpoint=mae_hiera_tiny_224
"""

from ..common.boxes_alone import boxes_alone
from .mask_rcnn_hiera_t import dataloader, lr_multiplier, model, optimizer, train

boxes_alone(model, dataloader)

train.output_dir = "./output/faster_rcnn_hiera_t"
