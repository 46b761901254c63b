"""The quick start: a small Hiera from scratch on generated shapes, minutes on a laptop's CPU.

python tools/lazyconfig_train_net.py --config-file configs/shapes/mask_rcnn_hiera_shapes.py
"""

from detectron2.config import LazyCall as L

import hiera_det.data.shapes  # registers shapes_train and shapes_val
from hiera_det.solver import warmup_cosine

from ..common.data.coco_lsj import dataloader
from ..common.models.mask_rcnn_hiera import model
from ..common.optim import AdamW as optimizer
from ..common.train import train

_CHANNELS = 64

# A trunk of 1 M parameters; an image of 160 px has 10x10 tokens in stage 3.
_trunk = model.backbone.bottom_up.trunk
_trunk.update(embed_dim=32, num_heads=1, stages=(1, 1, 2, 1), drop_path_rate=0.0)
_trunk.update(window_size=(8, 4, 0, 0), global_attn_blocks=())
model.backbone.out_channels = _CHANNELS
model.proposal_generator.head.update(in_channels=_CHANNELS, conv_dims=[-1])
model.proposal_generator.anchor_generator.sizes = [[16], [32], [64], [128], [256]]
model.proposal_generator.update(pre_nms_topk=(500, 300), post_nms_topk=(200, 100))
# Levels by size as for a 1024 px image: an object of 64 px is pooled from p4, not from p2.
for _pooler in (model.roi_heads.box_pooler, model.roi_heads.mask_pooler):
    _pooler.update(canonical_box_size=64, sampling_ratio=1)
model.roi_heads.update(num_classes=6, batch_size_per_image=64, positive_fraction=0.5)
model.roi_heads.box_head.input_shape.channels = _CHANNELS
model.roi_heads.box_head.update(conv_dims=[], fc_dims=[256])
model.roi_heads.box_predictor.input_shape.channels = 256
model.roi_heads.box_predictor.cls_agnostic_bbox_reg = True  # six times the examples for each
model.roi_heads.mask_head.input_shape.channels = _CHANNELS
model.roi_heads.mask_head.conv_dims = [32, 32]

dataloader.image_size = 160
dataloader.train.dataset.names = "shapes_train"
dataloader.train.mapper.augmentations[1].update(min_scale=0.8, max_scale=1.25)
dataloader.train.update(total_batch_size=4, num_workers=0)
dataloader.test.dataset.names = "shapes_val"
dataloader.test.num_workers = 0

train.output_dir = "./output/mask_rcnn_hiera_shapes"
train.epochs = 2.4
train.epoch_images = 2000
train.eval_period = 10_000  # at the end
train.checkpointer.period = 250
train.seed = 1
train.clip_grad_norm = 1.0

optimizer.lr = 1e-3
optimizer.betas = (0.9, 0.95)  # a short run should forget its first gradients soon
optimizer.weight_decay = 0.05
lr_multiplier = L(warmup_cosine)(max_iter="${train.max_iter}", warmup_iters=50)
