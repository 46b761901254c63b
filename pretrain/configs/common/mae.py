"""MAE pretraining as in arXiv 2306.00989, table 14a, for images of ImageNet-1K.

The paper's learning rate stands for a batch of 4096; here it follows the batch in proportion. The
paper does not say how the warm-up starts and where the cosine ends: 0.001 of the rate, and 0.
"""

from detectron2.config import LazyCall as L

from hiera_det.modeling.pixels import IMAGENET_MEAN, IMAGENET_STD
from pretrain.data import PretrainImages, build_pretrain_loader
from pretrain.mae import build_mae

from .schedule import lr_multiplier, optimizer, train

model = L(build_mae)(
    variant="hiera_b",
    mask_ratio=0.6,
    target="pixels",  # or "hog"
    input_size=(224, 224),  # px
    pos_embed="absolute",  # or "absolute_win"
    drop_path_rate=0.0,
    decoder_embed_dim=512,
    decoder_depth=8,
    decoder_num_heads=16,
    decoder_pos_init="normal",  # or "sincos", for runs that are short
    act_checkpoint=False,
    pixel_mean=[*IMAGENET_MEAN],
    pixel_std=[*IMAGENET_STD],
)

dataloader = dict(
    intensity_range=None,  # of pixels of more than 8 bits, as [0, 4095]; None: percentiles
    page=None,  # of files that hold several images, from 0
    train=L(build_pretrain_loader)(
        dataset=L(PretrainImages)(
            root="${oc.env:DETECTRON2_DATASETS,datasets}/imagenet/train",
            input_size="${model.input_size}",
            mask_ratio="${model.mask_ratio}",
            crop_scale=(0.2, 1.0),
            flip=True,
            max_unreadable=100,
            intensity_range="${dataloader.intensity_range}",
            page="${dataloader.page}",
        ),
        total_batch_size=4096,  # of an optimizer step, whatever the number of processes
        num_workers=8,
    ),
)

train.epochs = 1600
train.warmup_epochs = 40
train.images_per_process = 256
train.picture_epochs = 20  # between two pictures of reconstructions; 0 draws the last one alone
train.num_pictures = 8  # images in it; 0 draws none

optimizer.lr = "${linear_lr:8e-4,${dataloader.train.total_batch_size},4096}"
optimizer.betas = (0.9, 0.95)
