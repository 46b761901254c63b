"""Your own dataset with a recipe from its data: image size, anchors, object cap, epochs, batch and
rate, a small model where there is no GPU, boxes alone where there are no masks.

    hiera-det train --data train.json images --dry-run    # says what it sets, and why
    hiera-det train --data train.json images [val.json [images]]

The recipe stands in hiera_det/config/recipe.py. Overrides go before it, and what follows from them
follows; recipe.from_data=False leaves it out. Without --data:

    python tools/lazyconfig_train_net.py --config-file configs/custom/auto.py \
        dataloader.train_json=train.json dataloader.train_images=images/train \
        dataloader.val_json=val.json dataloader.val_images=images/val
"""

from detectron2.config import LazyCall as L

from hiera_det.data.augmentations import RandomObjectCrop
from hiera_det.solver import warmup_cosine

from .coco_json import dataloader, model, optimizer, train

# Training sees squares of crop_size out of images scaled to image_size, smaller or larger.
dataloader.crop_size = "${dataloader.image_size}"
dataloader.train.mapper.augmentations[2] = L(RandomObjectCrop)(size="${dataloader.crop_size}")

lr_multiplier = L(warmup_cosine)(max_iter="${train.max_iter}", warmup_iters=50)

train.output_dir = "./output/auto"
train.clip_grad_norm = 1.0

# `reasons` is filled in when the recipe is applied, and `from_data` turned off: the config.yaml of
# a run holds the values themselves.
recipe = dict(from_data=True, reasons=[])
