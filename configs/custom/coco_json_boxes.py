"""Your own dataset without masks, as COCO-format JSON files: boxes alone are learnt, evaluated and
reported. For the rest see coco_json.py.

    python tools/lazyconfig_train_net.py --config-file configs/custom/coco_json_boxes.py \
        dataloader.train_json=train.json dataloader.train_images=images/train \
        dataloader.val_json=val.json dataloader.val_images=images/val \
        train.init_checkpoint=mae_hiera_base_224 train.epochs=50
"""

from ..common.boxes_alone import boxes_alone
from .coco_json import dataloader, lr_multiplier, model, optimizer, train

boxes_alone(model, dataloader)

train.output_dir = "./output/custom_boxes"
