"""Mask R-CNN on SAM 2's image encoder, size T: its windows, global blocks, background size and
drop path by its variant, layer decay of its training (arXiv 2408.00714, table 13), the rest as
mask_rcnn_hiera_b.py. Not in a paper and not trained here.

    python tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_sam2_hiera_t.py \
        --num-gpus 8 train.init_checkpoint=sam2.1_hiera_tiny.pt
"""

from .mask_rcnn_hiera_b import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.trunk.variant = "sam2_hiera_t"

train.output_dir = "./output/mask_rcnn_sam2_hiera_t"
optimizer.params.layer_decay = 0.8
