"""Fine-tuning on ImageNet-1K after 1600 epochs of pretraining: arXiv 2306.00989, table 14b."""

from detectron2.config import LazyCall as L

from hiera_det.modeling.classifier import build_classifier
from hiera_det.modeling.pixels import IMAGENET_MEAN, IMAGENET_STD
from pretrain.classify import ClassificationLoss, ClassImages, build_test_loader
from pretrain.data import build_pretrain_loader

from .schedule import lr_multiplier, optimizer, train

model = L(build_classifier)(
    variant="hiera_b",
    num_classes=1000,  # set to the number of sub-folders found
    pos_embed="absolute",  # or "absolute_win"
    pos_embed_size=None,  # rows and columns of the table; None: 56x56, of the background 7x7
    drop_path_rate=0.1,
    act_checkpoint=False,
)

_root = "${oc.env:DETECTRON2_DATASETS,datasets}/imagenet"
dataloader = dict(
    input_size=(224, 224),  # px
    intensity_range=None,  # of pixels of more than 8 bits, as [0, 4095]; None: percentiles
    page=None,  # of files that hold several images, from 0
    train=L(build_pretrain_loader)(
        dataset=L(ClassImages)(
            root=f"{_root}/train",
            input_size="${dataloader.input_size}",
            crop_scale=(0.08, 1.0),
            rand_augment=9,
            max_unreadable=100,
            intensity_range="${dataloader.intensity_range}",
            page="${dataloader.page}",
        ),
        total_batch_size=1024,  # of an optimizer step, whatever the number of processes
        num_workers=8,
    ),
    test=L(build_test_loader)(
        dataset=L(ClassImages)(
            root=f"{_root}/val",
            input_size="${dataloader.input_size}",
            max_unreadable=0,
            intensity_range="${dataloader.intensity_range}",
            page="${dataloader.page}",
        ),
        batch_size=128,
        num_workers=8,
    ),
)

train.eval_epochs = 5
train.images_per_process = 128
train.loss = L(ClassificationLoss)(
    num_classes="${model.num_classes}",
    pixel_mean=[*IMAGENET_MEAN],
    pixel_std=[*IMAGENET_STD],
    mixup=0.8,
    cutmix=1.0,
    label_smoothing=0.1,
)

optimizer.lr = "${linear_lr:2e-3,${dataloader.train.total_batch_size},1024}"
optimizer.params.layer_decay = 0.7
