"""The quick start: the trunk of configs/shapes/mask_rcnn_hiera_shapes.py on the generated shapes,
a few minutes on a CPU. `pretrain/export.py` makes the file that starts that detector.

    python pretrain/train_mae.py --config-file pretrain/configs/mae_hiera_shapes.py
"""

from detectron2.config import LazyCall as L

from hiera_det.config import load_config
from pretrain.data import shapes_folder

from .common.mae import dataloader, lr_multiplier, model, optimizer, train

_detector = load_config("shapes/mask_rcnn_hiera_shapes.py")
_trunk = _detector.model.backbone.bottom_up.trunk
_side = _detector.dataloader.image_size

for _key in ("variant", "embed_dim", "num_heads", "stages", "pos_embed", "pos_embed_size"):
    model[_key] = _trunk[_key]
model.input_size = (_side, _side)
# Minutes are too short for the decoder to find positions from the official initialisation.
model.update(decoder_embed_dim=128, decoder_depth=2, decoder_num_heads=4, decoder_pos_init="sincos")

dataloader.train.dataset.root = L(shapes_folder)()
dataloader.train.update(total_batch_size=16, num_workers=0)

train.output_dir = "./output/mae_hiera_shapes"
train.epochs = 8
train.warmup_epochs = 1
train.epoch_images = 2000
train.images_per_process = 16
train.picture_epochs = 2
train.checkpointer.period = 250
train.amp.enabled = False
train.lr_scaling.base_batch_size = 16

optimizer.lr = 1e-3  # of this small net; no rule for it
