"""Dry run: everything that a training run builds, described as a text."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn

from hiera_det.checkpoint import load_init_checkpoint
from hiera_det.data.run_check import check_run, dataset_names
from hiera_det.modeling.hiera import Hiera, HieraBlock
from hiera_det.modeling.units import UNIT_PIXELS, UNIT_SIZE
from hiera_det.modeling.variants import find_trunk
from hiera_det.report.cost import PARTS, count_macs, count_parameters, meta_model, part_of

__all__ = ["block_table", "check_groups", "dry_run"]

MANY_CLASSES = 20  # above that only the rarest and the commonest are listed
SMALL, LARGE = 32.0, 96.0  # COCO's bounds of object size: square root of the area, pixels


def dry_run(cfg: DictConfig, warnings: Sequence[str] = ()) -> str:
    """Builds everything that a training run builds, and describes it.

    Model on `train.device`, initial weights, optimizer, schedule; the data are read and checked.
    Nothing is trained, and nothing written but a generated dataset that is not there yet.

    Args:
        cfg: of a detector.
        warnings: of `engine.check_config`, to stand first.

    Returns:
        Sections recipe (of configs/custom/auto.py), trunk, parameters, weights, optimizer, schedule
        and data. Data that are not on this machine are said to be missing; the rest can be seen
        without them.

    Raises:
        ValueError, FileNotFoundError: what would stop the run: weights that do not fit, a parameter
            in no optimizer group or in two, a learning rate above `optimizer.lr`, a batch that the
            processes cannot share, data that do not agree with the model.
    """
    model = instantiate(cfg.model).to(cfg.train.device)
    sections = {"warnings": warnings} if warnings else {}
    reasons = OmegaConf.select(cfg, "recipe.reasons")
    sections |= {"recipe": list(reasons)} if reasons else {}
    sections |= {
        "trunk": block_table(find_trunk(model)[1], cfg.dataloader.image_size),
        "parameters": _parameters(cfg, model),
        "weights": _weights(cfg, model),
        "optimizer": _optimizer(cfg, model),
        "schedule": _schedule(cfg),
        "data": _data(cfg),
    }
    return "\n\n".join(
        "\n".join([title.upper(), *(f"  {line}" for line in lines)])
        for title, lines in sections.items()
    )


# --------------------------------------------------------------------------------------- model
def block_table(trunk: Hiera, image_size: int) -> list[str]:
    """A line per block: where it stands, how far it attends, on a square image.

    Windows are in tokens of the block's input: the first block of a stage still attends in the
    window of the stage before.
    """
    units = -(-image_size // UNIT_PIXELS)
    lines = ["block stage   dim heads  tokens    window pool drop path"]
    side = UNIT_SIZE  # tokens on a side of a unit, before the block
    for i, block in enumerate(cast(Iterable[HieraBlock], trunk.blocks)):
        tokens = units * side
        if block.window == 0:
            window = "global"
        else:
            padded = "+pad" if units % block.window else ""
            window = f"{block.window * side}{padded}"
        lines.append(
            f"{i:5d} {block.stage + 1:5d} {trunk.embed_dims[block.stage]:5d} "
            f"{block.attn.num_heads:5d} "
            f"{f'{tokens}²':>7} {window:>9} {'2x2' if block.pool else '':>4} "
            f"{block.drop_path.drop_prob:9.3f}"
        )
        side //= 2 if block.pool else 1
    table = " + ".join(
        f"{name} {'x'.join(map(str, getattr(trunk, name).shape[1:]))}"
        for name in sorted(trunk.no_weight_decay())
    )
    lines.append(f"position: {trunk.pos_embed_kind} ({table})")
    return lines


def _parameters(cfg: DictConfig, model: nn.Module) -> list[str]:
    prefix, _ = find_trunk(model)
    total = count_parameters(model)
    frozen: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        frozen[part_of(name, prefix)] += 0 if parameter.requires_grad else parameter.numel()
    size = cfg.dataloader.image_size
    macs = count_macs(meta_model(cfg.model), size)

    def row(part: str, count: int, still: int, cost: int) -> str:
        note = f"  ({still:,} frozen)" if still else ""
        return f"{part:10}{count:14,}{cost / 1e9:10.1f}{note}"

    return [
        f"{'':10}{'parameters':>14}{'GFLOPs':>10}  (multiply-adds; {size}x{size} px, 1000 boxes, "
        "100 masks)",
        *(row(part, total[part], frozen[part], macs[part]) for part in PARTS),
        row("total", sum(total.values()), frozen.total(), sum(macs.values())),
    ]


def _weights(cfg: DictConfig, model: nn.Module) -> list[str]:
    path = cfg.train.init_checkpoint
    if not path:
        return ["none: everything starts at random (train.init_checkpoint is empty)"]
    patterns = {key: cfg.train[key] for key in ("allow_missing", "allow_unexpected")}
    return load_init_checkpoint(model, path, **patterns).split("; ")


# ----------------------------------------------------------------------------------- optimizer
def check_groups(model: nn.Module, groups: Iterable[dict], base_lr: float) -> None:
    """Checks optimizer groups: every trainable parameter in one, no rate above `base_lr`.

    Raises:
        ValueError: a trainable parameter is in no group or in more than one, a frozen one is in a
            group, or a group learns faster than `base_lr` (layer decay told a wrong depth).
    """
    groups = list(groups)
    counts = Counter(id(p) for group in groups for p in group["params"])
    wrong = [
        f"{name} is {'trainable' if p.requires_grad else 'frozen'} and in {counts[id(p)]} groups"
        for name, p in model.named_parameters()
        if counts[id(p)] != int(p.requires_grad)
    ]
    if wrong:
        raise ValueError(
            f"optimizer groups: each trainable parameter belongs in one; {len(wrong)} do not: "
            f"{'; '.join(wrong[:4])}"
        )
    fastest = max(group["lr"] for group in groups)
    if fastest > base_lr * (1 + 1e-9):
        raise ValueError(
            f"an optimizer group has lr={fastest:g}, above optimizer.lr={base_lr:g}: does the "
            "layer decay know the true number of blocks?"
        )


def _optimizer(cfg: DictConfig, model: nn.Module) -> list[str]:
    cfg = cfg.copy()  # a model in a config would be saved with it
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    groups = optimizer.param_groups
    check_groups(model, groups, cfg.optimizer.lr)
    names = {id(p): name for name, p in model.named_parameters()}
    lines = [
        f"{type(optimizer).__name__}, {len(groups)} groups",
        f"{'tensors':>7} {'parameters':>12} {'lr':>9} {'decay':>6}  for example",
    ]
    for group in sorted(groups, key=lambda g: (g["lr"], g["weight_decay"])):
        members = group["params"]
        examples = ", ".join(_short(names[id(p)]) for p in members[:2])
        lines.append(
            f"{len(members):7d} {sum(p.numel() for p in members):12,} {group['lr']:9.3g} "
            f"{group['weight_decay']:6g}  {examples}{', …' if len(members) > 2 else ''}"
        )
    return lines


def _short(name: str) -> str:
    """backbone.bottom_up.trunk.blocks.0.norm1.weight as trunk.blocks.0.norm1.weight."""
    return name[name.find("trunk.") :] if "trunk." in name else name


# ------------------------------------------------------------------------------------ schedule
def _schedule(cfg: DictConfig) -> list[str]:
    max_iter, batch = cfg.train.max_iter, cfg.dataloader.train.total_batch_size
    processes, images = comm.get_world_size(), cfg.train.epoch_images
    if batch % processes:
        raise ValueError(
            f"dataloader.train.total_batch_size={batch} is not divisible by {processes} processes"
        )
    named = OmegaConf.select(cfg, "lr_multiplier.warmup_iters", default=0)
    warmup = min(named, max_iter // 5)  # as the schedules cut it
    fractions = OmegaConf.select(cfg, "lr_multiplier.milestones", default=[])
    milestones = [round(m * max_iter) for m in fractions]
    multiplier = instantiate(cfg.lr_multiplier)
    points = {0, warmup // 2, warmup, max_iter // 2, max_iter - 1, *milestones}
    points |= {m - 1 for m in milestones}
    rates = [
        f"{i} {cfg.optimizer.lr * multiplier(i / max_iter):.3g}"
        for i in sorted(points)
        if 0 <= i < max_iter
    ]
    clip, amp = cfg.train.clip_grad_norm, cfg.train.amp
    lines = [
        f"{max_iter:,} iterations x {batch} images = {max_iter * batch / images:.2f} epochs of "
        f"{images:,} images",
        f"batch {batch} = {batch // processes} images x {processes} "
        f"process{'es' if processes > 1 else ''}",
        f"warm-up {warmup} iterations; milestones {', '.join(map(str, milestones)) or 'none'}",
        f"lr at iteration: {', '.join(rates)}",
        f"evaluation every {cfg.train.eval_period} iterations, "
        f"checkpoint every {cfg.train.checkpointer.period}",
        f"device {cfg.train.device}, precision {amp.precision if amp.enabled else 'fp32'}, "
        f"gradient clipping {clip or 'off'}",
    ]
    if warmup < named:
        lines.append(
            f"NOTE: the run is short: its warm-up of {named} iterations is cut to {warmup}"
        )
    return lines


# ---------------------------------------------------------------------------------------- data
def _data(cfg: DictConfig) -> list[str]:
    report = check_run(cfg)
    if report is None:
        return ["the config has no dataloader.*.dataset.names: nothing is known about the data"]
    try:
        report.raise_if_errors()
    except FileNotFoundError as error:
        return ["not on this machine, so not checked:", *str(error).splitlines()[1:]]
    lines = str(report).splitlines()
    for split in ("train", "test"):
        records = instantiate(cfg.dataloader[split].dataset)
        names = dataset_names(cfg, split)
        classes = MetadataCatalog.get(names[0]).get("thing_classes", []) if names else []
        lines += ["", f"{split}: {len(records):,} images are used", *_statistics(records, classes)]
        expected = cfg.train.epoch_images
        if split == "train" and abs(len(records) - expected) > 0.05 * expected:
            lines.append(
                f"NOTE: train.epoch_images={expected:,} is not this number, so an epoch of the "
                "schedule is not one pass over the data"
            )
    return lines


def _statistics(records: Sequence[dict], classes: Sequence[str]) -> list[str]:
    """Sizes of images and objects, and how the objects spread over the classes."""
    objects = [a for r in records for a in r.get("annotations", ()) if not a.get("iscrowd", 0)]
    if not objects:
        return ["no objects"]
    longest = np.array([max(r["height"], r["width"]) for r in records if "height" in r] or [0])
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYWH_ABS) for a in objects]
    sides = np.sqrt(np.array(boxes)[:, 2:].prod(axis=1))
    small, large = np.mean(sides < SMALL), np.mean(sides >= LARGE)
    per_image = len(objects) / len(records)
    counts = Counter({k: 0 for k in range(len(classes))})
    counts.update(a["category_id"] for a in objects)
    ranked = [(classes[k] if k < len(classes) else str(k), n) for k, n in counts.most_common()]
    return [
        f"longer side of the images: {longest.min()} to {longest.max()} px, "
        f"median {np.median(longest):.0f}",
        f"{len(objects):,} objects, {per_image:.1f} an image; boxes below {SMALL:.0f} px "
        f"{small:.0%}, to {LARGE:.0f} px {1 - small - large:.0%}, larger {large:.0%}",
        f"{len(ranked)} classes with objects: {_class_list(ranked)}",
    ]


def _class_list(ranked: Sequence[tuple[str, int]]) -> str:
    """The classes with their counts, from the commonest; of many only the ends."""
    texts = [f"{name} {count:,}" for name, count in ranked]
    if len(texts) > MANY_CLASSES:
        texts = [*texts[:5], f"… (median {ranked[len(ranked) // 2][1]:,}) …", *texts[-5:]]
    return ", ".join(texts)
