"""COCO with large-scale jitter at dataloader.image_size, the one place where the size stands."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)

from hiera_det.data.evaluator import COCOEvaluator
from hiera_det.data.mapper import DatasetMapper

dataloader = dict(
    image_size=1024,  # pixels, a side
    intensity_range=None,  # of pixels of more than 8 bits, as [0, 4095]; None: percentiles
    page=None,  # of files that hold several images, from 0
    train=L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomFlip)(horizontal=True),
                L(T.ResizeScale)(
                    min_scale=0.1,
                    max_scale=2.0,
                    target_height="${dataloader.image_size}",
                    target_width="${dataloader.image_size}",
                ),
                L(T.FixedSizeCrop)(
                    crop_size=["${dataloader.image_size}", "${dataloader.image_size}"],
                    pad=False,  # the model pads, after it normalised
                ),
            ],
            image_format="RGB",
            use_instance_mask=True,
            recompute_boxes=True,  # boxes are tight again after a crop
            intensity_range="${dataloader.intensity_range}",
            page="${dataloader.page}",
        ),
        aspect_ratio_grouping=False,  # squares need none, and it would make a resume inexact
        total_batch_size=64,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length="${dataloader.image_size}",
                    max_size="${dataloader.image_size}",
                ),
            ],
            image_format="${...train.mapper.image_format}",
            intensity_range="${dataloader.intensity_range}",
            page="${dataloader.page}",
        ),
        num_workers=4,
    ),
    evaluator=L(COCOEvaluator)(
        dataset_name="${..test.dataset.names}",
        tasks=("bbox", "segm"),  # named, so that a model that finds nothing reports both
        output_dir="${train.output_dir}/inference",
    ),
)
