"""Linear probe: softmax regression on the features of a frozen trunk."""

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from hiera_det.checkpoint import load_init_checkpoint
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.variants import build_hiera

from .classify import ClassificationLoss, ClassImages

__all__ = ["features", "fit_softmax", "probe", "probe_weights"]

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


def probe_weights(
    cfg: DictConfig, weights: str | None, train: str, val: str, num_workers: int = 4
) -> dict[str, float]:
    """`probe` of the trunk of a pretraining config.

    Args:
        cfg: config of the pretraining.
        weights: a file with the trunk; None for a random one, to compare with.
        train, val: folders with a sub-folder of images per class.
        num_workers: loading processes.
    """
    torch.manual_seed(0)
    options = {key: cfg.model[key] for key in TRUNK_KEYS if key in cfg.model}
    if cfg.model.pos_embed == "absolute" and options.get("pos_embed_size") is None:
        # as `MaskedAutoencoderHiera` has it
        options["pos_embed_size"] = [side // 4 for side in cfg.model.input_size]
    trunk = build_hiera(**options)
    if weights:
        load_init_checkpoint(trunk, weights)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fitted = ClassImages(train, cfg.model.input_size)
    others = ClassImages(val, cfg.model.input_size, max_unreadable=0)  # every image counts
    loss = ClassificationLoss(len(fitted.classes), cfg.model.pixel_mean, cfg.model.pixel_std)
    return probe(trunk.to(device), fitted, others, loss.normalize, num_workers)
