"""Costs of a detector: parameters and multiply-adds (FLOPs in papers), by part.

Both are properties of the shapes alone, so models are built and run on the `meta` device: no
memory, no arithmetic, a second even for the largest.
"""

from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hiera_det.modeling.variants import find_trunk

__all__ = ["PARTS", "count_macs", "count_parameters", "meta_model", "part_of"]

PARTS = ("trunk", "fpn", "rpn", "roi_heads")


def meta_model(cfg: DictConfig) -> nn.Module:
    """Builds `cfg` (a config's `model`) on the meta device, in evaluation mode."""
    with torch.device("meta"):
        return instantiate(cfg).eval()


def part_of(name: str, trunk_prefix: str) -> str:
    """The part of PARTS that a parameter of a detector belongs to.

    Args:
        name: of the parameter. Output norms count as "fpn".
        trunk_prefix: first result of `find_trunk`.
    """
    if name.startswith(trunk_prefix):
        return "trunk"
    heads = {"proposal_generator": "rpn", "roi_heads": "roi_heads"}
    return heads.get(name.split(".")[0], "fpn")


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters of each of PARTS, trainable or not."""
    prefix, _ = find_trunk(model)
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[part_of(name, prefix)] += parameter.numel()
    return counts


@torch.no_grad()
def count_macs(
    model: nn.Module, image_size: int, num_boxes: int = 1000, num_masks: int = 100
) -> dict[str, int]:
    """Multiply-adds of one image in each of PARTS; papers call them FLOPs.

    Matrix products and convolutions are counted, in attention as well; norms, activations, pooling
    and box arithmetic are not (below 1 %).

    Args:
        model: a detector of `meta_model`. On a CPU some versions of torch do not count attention.
        image_size: side of the square image, pixels; padded as the model pads it.
        num_boxes: that pass the box head, in every stage of a cascade.
        num_masks: that pass the mask head, if there is one.
    """
    _, trunk = find_trunk(model)
    # Detectron2's modules, of either make
    backbone: Any = model.backbone
    rpn: Any = model.proposal_generator
    heads: Any = model.roi_heads
    device = next(model.parameters()).device
    divisor = max(1, backbone.size_divisibility)
    side = -(-image_size // divisor) * divisor
    marks = []  # operations (2 a multiply-add) after each part
    with FlopCounterMode(display=False) as counter:

        def mark(*_) -> None:
            marks.append(counter.get_total_flops())

        after_trunk = trunk.register_forward_hook(mark)
        features = backbone(torch.empty(1, 3, side, side, device=device))
        after_trunk.remove()
        mark()
        rpn.rpn_head([features[name] for name in rpn.in_features])
        mark()
        channels = features[heads.box_in_features[0]].shape[1]
        boxes = torch.empty(num_boxes, channels, *heads.box_pooler.output_size, device=device)
        for head, predictor in zip(_each(heads.box_head), _each(heads.box_predictor), strict=True):
            predictor(head(boxes))
        if heads.mask_on:
            size = heads.mask_pooler.output_size
            heads.mask_head.layers(torch.empty(num_masks, channels, *size, device=device))
        mark()
    return {
        part: (after - before) // 2
        for part, before, after in zip(PARTS, [0, *marks], marks, strict=False)
    }


def _each(module: nn.Module) -> list[nn.Module]:
    """The heads of a cascade, or the one head there is."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]
