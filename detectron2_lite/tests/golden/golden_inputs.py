"""The inputs of the golden values, and the comparison with them."""

import golden_models
import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances, PolygonMasks
from torch import Tensor, nn

IMAGE_SIZES = [(192, 256), (224, 160)]  # (height, width) of the images of ``batch``


def assert_golden(actual: Tensor, expected: np.ndarray, tol: float) -> None:
    torch.testing.assert_close(actual, torch.from_numpy(expected), rtol=tol, atol=tol)


def random_boxes(
    seed: int, n: int, width: int = 256, height: int = 256, low: int = 4, high: int = 120
) -> Tensor:
    """(n, 4), some of them partly outside of the image."""
    r = np.random.RandomState(seed)
    x, y = r.uniform(-10, width - 10, n), r.uniform(-10, height - 10, n)
    w, h = r.uniform(low, high, n), r.uniform(low, high, n)
    return torch.from_numpy(np.stack([x, y, x + w, y + h], 1).astype(np.float32))


def random_polygons(
    r: np.random.RandomState, n: int, height: int, width: int
) -> tuple[list[list[np.ndarray]], Tensor]:
    """n regular polygons of 3 to 7 corners, clipped to the image, and the boxes around them."""
    polygons, boxes = [], []
    for _ in range(n):
        x, y = r.uniform(30, width - 30), r.uniform(30, height - 30)
        radius, corners = r.uniform(14, 45), r.randint(3, 8)
        angle = np.arange(corners) * 2 * np.pi / corners + r.uniform(0, 3)
        points = np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)
        points = points.clip(0, [width, height])
        polygons.append([points.reshape(-1)])  # (P, 2) -> (2P,)
        boxes.append(np.concatenate([points.min(0), points.max(0)]))
    return polygons, torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32)


def random_instances(seed: int, n: int, height: int, width: int) -> Instances:
    """Ground truth of three classes."""
    r = np.random.RandomState(seed)
    polygons, boxes = random_polygons(r, n, height, width)
    return Instances(
        (height, width),
        gt_boxes=Boxes(boxes),
        gt_classes=torch.from_numpy(r.randint(0, 3, n)).long(),
        gt_masks=PolygonMasks(polygons),
    )


def image(seed: int, height: int, width: int) -> Tensor:
    """uint8 (3, height, width) of random blocks."""
    blocks = golden_models.block_image(seed, height, width)
    return torch.from_numpy(np.ascontiguousarray(blocks.transpose(2, 0, 1)))  # HWC -> CHW


def batch(with_instances: bool) -> list[dict]:
    """Two images, to be detected in at 1.5 times their height and 1.25 times their width."""
    inputs = [
        {"image": image(90 + i, h, w), "height": int(h * 1.5), "width": int(w * 1.25)}
        for i, (h, w) in enumerate(IMAGE_SIZES)
    ]
    if with_instances:
        for i, (h, w) in enumerate(IMAGE_SIZES):
            inputs[i]["instances"] = random_instances(92 + i, 4, h, w)
    return inputs


def seeded_model(name: str) -> nn.Module:
    """A model of ``golden_models.MODELS`` with the weights of the golden values."""
    return golden_models.load_seeded(instantiate(golden_models.MODELS[name]()), name)
