#!/usr/bin/env python
"""How well a linear layer tells classes apart from a frozen encoder's features.

A quick yardstick, for folders of up to some ten thousand images: features of all images are
computed once, without augmentation (mean over the tokens of the last stage), standardised, and a
softmax regression is fitted to them with L-BFGS. It is comparable between encoders on the same
images, not with published linear probes.
"""

import argparse
import json
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_det.checkpoint import load_init_checkpoint
from hiera_det.config import load_config
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.variants import build_hiera
from pretrain.classify import ClassificationLoss, ClassImages

EXAMPLES = """
Example:
  python pretrain/linear_probe.py --config-file pretrain/configs/mae_hiera_b.py \\
      --weights encoder.pth --train /data/flowers/train --val /data/flowers/val
"""
TRUNK_KEYS = (
    "variant", "embed_dim", "num_heads", "stages", "window_size", "pos_embed", "pos_embed_size",
)  # fmt: skip


@torch.no_grad()
def features(
    trunk: Hiera, images: ClassImages, normalize, batch_size: int = 64, num_workers: int = 0
) -> tuple[Tensor, Tensor]:
    """Mean tokens of the last stage (num_images, C), and classes (num_images,)."""
    device = trunk.pos_embed.device
    loader = torch.utils.data.DataLoader(images, batch_size, num_workers=num_workers)
    found, labels = [], []
    for batch, target in loader:
        outputs, _ = trunk.eval().forward_units(normalize(batch.to(device)))
        found.append(outputs[-1].mean(dim=(1, 2)))  # (B, U, n, C) -> (B, C)
        labels.append(target)
    return torch.cat(found), torch.cat(labels).to(device)


def fit_softmax(x: Tensor, y: Tensor, num_classes: int, l2: float = 1e-4, steps: int = 200):
    """Softmax regression of (n, C) features on (n,) classes: a function from features to logits."""
    mean, std = x.mean(dim=0), x.std(dim=0) + 1e-6
    x = (x - mean) / std
    weight = torch.zeros(x.shape[1], num_classes, device=x.device, requires_grad=True)
    bias = torch.zeros(num_classes, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=steps, line_search_fn="strong_wolfe", tolerance_grad=1e-5
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight + bias, y) + l2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(objective)
    return lambda other: ((other - mean) / std) @ weight.detach() + bias.detach()


def probe(
    trunk: Hiera, train: ClassImages, val: ClassImages, normalize, num_workers: int = 0
) -> dict[str, float]:
    """Top-1 and top-5 in percent, on the images fitted to (`train_top1`) and on others."""
    if train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes))
        raise ValueError(f"training and validation folders differ in classes: {odd[:5]}")
    x, y = features(trunk, train, normalize, num_workers=num_workers)
    classify = fit_softmax(x, y, len(train.classes))
    train_top1 = (classify(x).argmax(dim=1) == y).float().mean()
    x, y = features(trunk, val, normalize, num_workers=num_workers)
    hits = classify(x).topk(min(5, len(val.classes)), dim=1).indices == y.unsqueeze(1)  # (n, k)
    top1, top5 = hits[:, 0].float().mean(), hits.any(dim=1).float().mean()
    values = {"top1": top1, "top5": top5, "train_top1": train_top1}
    return {name: round(100 * float(value), 2) for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", metavar="FILE", required=True, help="of the pretraining")
    parser.add_argument("--weights", metavar="FILE", help="default: random, to compare with")
    parser.add_argument("--train", metavar="DIR", required=True, help="a sub-folder per class")
    parser.add_argument("--val", metavar="DIR", required=True)
    parser.add_argument("--num-workers", type=int, default=4)
    parser.add_argument("opts", nargs="*", metavar="key=value", help="config overrides")
    args = parser.parse_args()
    cfg = load_config(args.config_file, args.opts)
    torch.manual_seed(0)
    options = {key: cfg.model[key] for key in TRUNK_KEYS if key in cfg.model}
    if cfg.model.pos_embed == "absolute":  # as `MaskedAutoencoderHiera` has it
        options.setdefault("pos_embed_size", [side // 4 for side in cfg.model.input_size])
    trunk = build_hiera(**options)
    if args.weights:
        print(load_init_checkpoint(trunk, args.weights), file=sys.stderr)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sets = [
        ClassImages(args.train, cfg.model.input_size),
        ClassImages(args.val, cfg.model.input_size, max_unreadable=0),  # every image counts
    ]
    loss = ClassificationLoss(len(sets[0].classes), cfg.model.pixel_mean, cfg.model.pixel_std)
    print(json.dumps(probe(trunk.to(device), *sets, loss.normalize, args.num_workers)))


if __name__ == "__main__":
    main()
