"""Your own dataset, as COCO-format JSON files: nothing to register, nothing to edit. Classes come
from the training file; how many objects an image can have (100 for Detectron2 and COCO's metric),
from both. Without masks: coco_json_boxes.py.

    python tools/lazyconfig_train_net.py --config-file configs/custom/coco_json.py \
        dataloader.train_json=train.json dataloader.train_images=images/train \
        dataloader.val_json=val.json dataloader.val_images=images/val \
        train.init_checkpoint=mae_hiera_base_224 train.epochs=50

The model is mask_rcnn_hiera_b.py at a batch of 16; `trunk.variant` chooses another size.
"""

from ..COCO.mask_rcnn_hiera_b import dataloader, lr_multiplier, model, optimizer, train

dataloader.update(train_json="???", train_images="???", val_json="???", val_images="???")
dataloader.class_names = "${class_names:${dataloader.train_json}}"
dataloader.train.dataset.names = (
    "${register_coco_json:${dataloader.train_json},${dataloader.train_images}}"
)
dataloader.test.dataset.names = (
    "${register_coco_json:${dataloader.val_json},${dataloader.val_images}}"
)
dataloader.train.total_batch_size = 16

model.roi_heads.num_classes = "${num_classes:${dataloader.train_json}}"
_OBJECTS = "${max_objects:${dataloader.train_json},${dataloader.val_json}}"
_TOPK = "${num_proposals:${dataloader.train_json},${dataloader.val_json}}"
model.roi_heads.box_predictor.test_topk_per_image = _OBJECTS
dataloader.evaluator.max_dets_per_image = _OBJECTS
model.proposal_generator.update(pre_nms_topk=(2000, _TOPK), post_nms_topk=(1000, _TOPK))

train.output_dir = "./output/custom"
train.epochs = 50
train.epoch_images = "${num_images:${dataloader.train_json}}"
train.eval_period = 1000
train.checkpointer.period = 1000
train.lr_scaling.base_batch_size = 16

optimizer.lr = 1.75e-5  # 3.5e-5 for 64 images, by the square root of the batch
