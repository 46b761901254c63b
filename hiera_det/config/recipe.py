"""Recipe from the data: the values that configs/custom/auto.py leaves to it, each with its reason.

`recipe` is a function of the statistics of the training set, the device, and what the user set;
`apply_recipe` writes its values into a config.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig, OmegaConf

from hiera_det.data.statistics import Statistics

__all__ = ["REMOVE", "Step", "apply_recipe", "recipe"]

REMOVE = "(removed)"  # as the value of a step: the key goes

RATIOS = (0.5, 1.0, 2.0)  # height / width of the model's anchors
NUM_LEVELS = 5
SMALLEST_ANCHORS = (8, 12, 16, 24, 32)  # px, on p2; each further level has twice the size
LEVELS_PER_ANCHOR = 7  # px of p4's objects over p2's anchor: 224 / 32 in Detectron2

OBJECT_SIDE = {"cpu": 26, "cuda": 40}  # px that the median object is to have
IMAGE_SIZES = {"cpu": (160, 512), "cuda": (640, 1344)}  # px, smallest and largest longer side
CROP_CPU = (256, 384)  # px; the larger where objects are few
OBJECTS_PER_CROP = 1.5

MINUTES = 8  # of training on the CPU
SECONDS = (0.03, 2.6e-6)  # of an image of the small model on 2 cores: fixed, and for each pixel
EPOCHS = {"cpu": (3, 150), "cuda": (12, 100)}
ITERATIONS_GPU = 6000
BATCH = {"cpu": 4, "cuda": 8}
BATCH_REASON = {"cpu": "images: many steps in a short run", "cuda": "images"}


class Step(NamedTuple):
    """A value that the recipe sets: dotted key, value or `REMOVE`, and why."""

    key: str
    value: Any
    reason: str


def recipe(stats: Statistics, device: str, given: Mapping[str, Any]) -> list[Step]:
    """What to set for a dataset.

    Args:
        stats: of the training set.
        device: "cpu" or "cuda".
        given: values that the user set, by dotted key; what depends on them follows them.

    Returns:
        Steps, in the order in which they are told.
    """
    is_small = device == "cpu" and not given.get("train.init_checkpoint")
    steps: list[Step] = []
    size = _image_size(stats, device, given, steps)
    crop = _crop_size(stats, device, size, given, steps)
    _anchors(stats, size, steps)
    if stats.num_without_mask:
        _boxes_alone(stats, steps)
    if is_small:
        _small_model(stats, given, steps)
    elif "model.backbone.bottom_up.trunk.variant" not in given:
        reason = "the smallest of the published sizes: own data are few"
        steps.append(Step("model.backbone.bottom_up.trunk.variant", "hiera_t", reason))
    _schedule(stats, device, crop, given, steps)
    return steps


# ------------------------------------------------------------------------------------- sizes
def _image_size(stats: Statistics, device: str, given: Mapping, steps: list[Step]) -> int:
    key, (low, high) = "dataloader.image_size", IMAGE_SIZES[device]
    side, wanted = float(np.median(stats.sides(1.0))), OBJECT_SIDE[device]
    size = wanted / side
    bounded = int(min(max(round(size / 32) * 32, low), high))
    now = side * stats.longer
    reason = (
        f"px, longer side: the median object has {now:.0f} px in images of {stats.longer:.0f} px, "
        f"{side * bounded:.0f} px then ({wanted} are wanted"
    )
    if bounded < size - 32:
        reason += f"; {high} is the most for {'a CPU' if device == 'cpu' else 'one GPU'}"
    elif bounded > size + 32:
        reason += f"; {low} is the least"
    steps.append(Step(key, bounded, reason + ")"))
    return int(given.get(key, bounded))


def _crop_size(stats: Statistics, device: str, size: int, given: Mapping, steps: list[Step]) -> int:
    """Crops, on a CPU: where objects are small and many, a part of an image teaches as much."""
    crop, (low, high) = size, CROP_CPU
    if device == "cpu" and size > low:
        shape = stats.longer * max(stats.shorter, 1.0) / stats.longer**2  # area / longer side ** 2
        density = stats.per_image / (shape * size**2)  # objects a px
        enough = math.sqrt(OBJECTS_PER_CROP / density)
        crop = min(size, high, max(low, math.ceil(enough / 64) * 64))
        steps.append(
            Step(
                "dataloader.crop_size",
                crop,
                f"px, squares that training sees: on a CPU, with {density * crop**2:.1f} objects "
                "in each",
            )
        )
    given_crop = given.get("dataloader.crop_size", crop)
    if given_crop != size:
        reason = "training crops are not padded to the size of the images in evaluation"
        steps.append(Step("model.backbone.square_pad", 0, reason))
    least, most = (0.7, 1.4) if device == "cpu" else (0.4, 1.6)
    reason = "a short run learns sizes near those of the data; COCO's 0.1 to 2.0 takes 100 epochs"
    key = "dataloader.train.mapper.augmentations.1"
    steps += [Step(f"{key}.min_scale", least, reason), Step(f"{key}.max_scale", most, "the same")]
    return int(given_crop)


# ------------------------------------------------------------------------------------- anchors
def _anchors(stats: Statistics, size: int, steps: list[Step]) -> None:
    boxes = stats.boxes * size  # (N, 2), px
    fits = {small: _fit(boxes, small) for small in SMALLEST_ANCHORS}
    # Of those that fit alike the largest: objects then lie on finer levels.
    small = max(s for s, fit in fits.items() if fit > max(fits.values()) - 0.01)
    low, middle, high = np.percentile(stats.sides(size), [5, 50, 95])
    sizes = [[small * 2**k] for k in range(NUM_LEVELS)]
    steps.append(
        Step(
            "model.proposal_generator.anchor_generator.sizes",
            sizes,
            f"px: objects have {low:.0f}, {middle:.0f}, {high:.0f} px (5, 50, 95 %); mean IoU with "
            f"the best anchor {fits[small]:.2f}, {fits[32]:.2f} with those of COCO",
        )
    )
    canonical = LEVELS_PER_ANCHOR * small
    reason = "px: objects are pooled from the level of their anchors, as 224 for anchors from 32"
    steps.append(Step("model.roi_heads.box_pooler.canonical_box_size", canonical, reason))
    if not stats.num_without_mask:
        steps.append(Step("model.roi_heads.mask_pooler.canonical_box_size", canonical, "the same"))


def _fit(boxes: np.ndarray, small: int) -> float:
    """Mean over boxes (N, 2) of the IoU with the best anchor, all centred on each other."""
    sizes = small * 2.0 ** np.arange(NUM_LEVELS)
    anchors = [(s / math.sqrt(r), s * math.sqrt(r)) for s in sizes for r in RATIOS]
    best = np.zeros(len(boxes))
    areas = boxes.prod(axis=1)
    for width, height in anchors:
        shared = np.minimum(boxes[:, 0], width) * np.minimum(boxes[:, 1], height)
        best = np.maximum(best, shared / (areas + width * height - shared))
    return float(best.mean())


# --------------------------------------------------------------------------------------- model
def _boxes_alone(stats: Statistics, steps: list[Step]) -> None:
    """What configs/common/boxes_alone.py does."""
    count, total = stats.num_without_mask, stats.num_objects
    which = "no object has a mask" if count == total else f"{count} of {total} objects have no mask"
    for key in ("mask_in_features", "mask_pooler", "mask_head"):
        steps.append(Step(f"model.roi_heads.{key}", REMOVE, f"boxes alone: {which}"))
    steps += [
        Step("dataloader.train.mapper.use_instance_mask", False, "boxes alone"),
        Step("dataloader.train.mapper.recompute_boxes", False, "boxes alone"),
        Step("dataloader.evaluator.tasks", ["bbox"], "boxes alone"),
    ]


def _small_model(stats: Statistics, given: Mapping, steps: list[Step]) -> None:
    """A trunk of 1 M parameters and light heads, for a CPU without pretrained weights."""
    channels = 64
    trunk, heads, rpn = (
        "model.backbone.bottom_up.trunk",
        "model.roi_heads",
        "model.proposal_generator",
    )
    has_masks = not stats.num_without_mask
    why = "no GPU and no train.init_checkpoint: a trunk of 1 M parameters learns in minutes"
    values: list[tuple[str, Any, str]] = [
        (f"{trunk}.embed_dim", 32, why),
        (f"{trunk}.num_heads", 1, ""),
        (f"{trunk}.stages", [1, 1, 2, 1], ""),
        (f"{trunk}.window_size", [8, 4, 4, 2], "64 px: the same in crops and in whole images"),
        (f"{trunk}.global_attn_blocks", [], ""),
        (f"{trunk}.drop_path_rate", 0.0, ""),
        ("model.backbone.out_channels", channels, "light heads: they are 90 % of the work"),
        (f"{rpn}.head.in_channels", channels, ""),
        (f"{rpn}.head.conv_dims", [-1], ""),
        (f"{heads}.box_head.input_shape.channels", channels, ""),
        (f"{heads}.box_head.conv_dims", [], ""),
        (f"{heads}.box_head.fc_dims", [256], ""),
        (f"{heads}.box_predictor.input_shape.channels", 256, ""),
        (f"{heads}.box_predictor.cls_agnostic_bbox_reg", True, "all classes teach the boxes"),
        (f"{heads}.box_pooler.sampling_ratio", 1, "a bin is about a cell of its level"),
    ]
    if has_masks:
        values += [
            (f"{heads}.mask_head.input_shape.channels", channels, ""),
            (f"{heads}.mask_head.conv_dims", [32, 32], ""),
            (f"{heads}.mask_pooler.sampling_ratio", 1, ""),
        ]
    values += [
        (f"{heads}.batch_size_per_image", 128, "boxes that learn, of an image"),
        (f"{heads}.positive_fraction", 0.5, ""),
        (f"{rpn}.pre_nms_topk.0", 500, "proposals of a small image, in training"),
        (f"{rpn}.post_nms_topk.0", 200, ""),
    ]
    steps += [Step(key, value, reason or "small model") for key, value, reason in values]


# ------------------------------------------------------------------------------------ schedule
def _schedule(stats: Statistics, device: str, crop: int, given: Mapping, steps: list[Step]) -> None:
    images, is_cpu = stats.num_images, device == "cpu"
    few, many = EPOCHS[device]
    batch = int(given.get("dataloader.train.total_batch_size", BATCH[device]))
    steps.append(Step("dataloader.train.total_batch_size", BATCH[device], BATCH_REASON[device]))
    if is_cpu:
        seconds = SECONDS[0] + SECONDS[1] * crop**2
        wanted = MINUTES * 60 / seconds / images
        reason = f"about {MINUTES} minutes on 2 cores at {seconds:.2f} s an image"
    else:
        wanted = ITERATIONS_GPU * batch / images
        reason = f"{ITERATIONS_GPU} iterations"
        steps.append(Step("train.images_per_process", 4, "at once on a GPU, the rest accumulated"))
    epochs = round(min(max(wanted, few), many), 1)
    if epochs != round(wanted, 1):
        reason += f" would be {wanted:.1f}; {few} to {many} are in use"
    steps.append(Step("train.epochs", epochs, f"{reason}; {images} images have objects"))
    epochs = float(given.get("train.epochs", epochs))
    length = int(given.get("train.max_iter", max(1, round(epochs * images / batch))))
    rate, reason = _rate(device, given)
    steps += [
        Step("optimizer.lr", rate, reason),
        Step("train.lr_scaling.base_batch_size", BATCH[device], "that the rate is for"),
    ]
    parts = 1 if is_cpu else 10
    reason = "iterations: at the end" if is_cpu else "iterations: ten times"
    steps += [
        Step("train.eval_period", max(1, length // parts), reason),
        Step("train.checkpointer.period", max(1, length // 4), "iterations: four times"),
        Step("train.checkpointer.max_to_keep", 2, "own runs fill disks"),
    ]
    if is_cpu:
        reason = "the cores are busy with the model"
        steps += [Step(f"dataloader.{s}.num_workers", 0, reason) for s in ("train", "test")]
        steps.append(Step("train.amp.enabled", False, "half precision is slow on most CPUs"))


def _rate(device: str, given: Mapping) -> tuple[float, str]:
    if given.get("train.init_checkpoint"):
        return 5e-5, "from pretrained weights"
    if device == "cpu":
        return 1e-3, "a small model from scratch, as the quick start"
    return 2e-4, "from scratch: train.init_checkpoint=mae_hiera_tiny_224.pth would gain most"


# -------------------------------------------------------------------------------------- configs
def apply_recipe(cfg: DictConfig, steps: list[Step], given: Mapping[str, Any]) -> None:
    """Writes the values of a recipe into a config, in place; overrides are applied afterwards.

    `cfg.recipe.reasons` gets a line for each, and `cfg.recipe.from_data` becomes False.
    """
    lines = []
    for key, value, reason in steps:
        if value is REMOVE:
            parent, name = key.rsplit(".", 1)
            OmegaConf.select(cfg, parent).pop(name, None)
        else:
            OmegaConf.update(cfg, key, value, force_add=True)
        text = f"{key}={value}: {reason}".replace("'", "")
        if key in given:
            text = f"{key}={given[key]}: yours; the recipe has {value}: {reason}"
        lines.append(text)
    cfg.recipe.from_data = False
    cfg.recipe.reasons = lines
