"""Mask R-CNN, Hiera-B up to stage 3 (stride 16), with ViTDet's SimpleFeaturePyramid instead of FPN:
not in the paper and not trained here; the recipe of mask_rcnn_hiera_b.py. Stage 4, of which no map
is taken, is left out.

    python tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_hiera_b_sfp.py \
        --num-gpus 8 train.init_checkpoint=mae_hiera_base_224
"""

from detectron2.config import LazyCall as L
from detectron2.modeling import SimpleFeaturePyramid
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from .mask_rcnn_hiera_b import dataloader, lr_multiplier, model, optimizer, train

_net = model.backbone.bottom_up
_net.out_features = ["scale4"]

model.backbone = L(SimpleFeaturePyramid)(
    net=_net,
    in_feature="${.net.out_features.0}",
    out_channels=256,
    scale_factors=(4.0, 2.0, 1.0, 0.5),
    top_block=L(LastLevelMaxPool)(),
    norm="LN",
    square_pad="${dataloader.image_size}",
)

train.output_dir = "./output/mask_rcnn_hiera_b_sfp"
