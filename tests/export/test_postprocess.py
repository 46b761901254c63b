"""Resizing and pasting in NumPy, beside Detectron2's."""

import numpy as np
import pytest
import torch
from detectron2.data.transforms import AugInput, AugmentationList, ResizeShortestEdge
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from PIL import Image

from hiera_det.export.postprocess import detections, network_input


def resized(image: np.ndarray, short_edge: int, max_size: int) -> np.ndarray:
    """By Detectron2, of an image in the model's format."""
    inputs = AugInput(np.ascontiguousarray(image))
    AugmentationList([ResizeShortestEdge(short_edge, max_size)])(inputs)
    return inputs.image


@pytest.mark.parametrize("input_format", ["RGB", "BGR", "L"])
@pytest.mark.parametrize(("short_edge", "max_size"), [(64, 64), (48, 80)])
def test_images_are_resized_as_detectron2_does(input_format, short_edge, max_size):
    rng = np.random.default_rng(0)
    # Twice the size with an odd side ends in halves, which are rounded up.
    sizes = [(64, 64), (128, 33), (31, 128), (97, 61), (7, 200), (300, 211), (1, 1), (160, 45)]
    facts = {
        "image_size": 96,
        "short_edge": short_edge,
        "max_size": max_size,
        "input_format": input_format,
    }
    for height, width in sizes:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels, size = network_input(image, facts)
        channels = {
            "RGB": lambda x: x,
            "BGR": lambda x: x[:, :, ::-1],
            "L": lambda x: np.array(Image.fromarray(x).convert("L"))[:, :, None],
        }
        expected = resized(channels[input_format](image), short_edge, max_size)
        assert tuple(size) == expected.shape[:2], (height, width)
        assert pixels.dtype == np.uint8 and pixels.shape == (96, 96, expected.shape[2])
        np.testing.assert_array_equal(pixels[: size[0], : size[1]], expected)


@pytest.mark.parametrize("side", [14, 28])
def test_masks_are_pasted_as_detectron2_does(side):
    rng = np.random.default_rng(1)
    net, image = (96, 70), (143, 105)  # (height, width)
    low = rng.uniform(-10, 70, (60, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.2, 60, (60, 2))], axis=1).astype(np.float32)
    boxes[0] = [0, 0, 70, 96]  # the whole image
    boxes[1] = [75, 20, 90, 40]  # outside: nothing is left of it
    boxes[2] = [-20, -20, 200, 200]
    masks = rng.uniform(0, 1, (60, side, side)).astype(np.float32)
    scores = np.sort(rng.uniform(0.1, 1, 60))[::-1].astype(np.float32).copy()
    classes = rng.integers(0, 5, 60)
    results = Instances(
        net,
        pred_boxes=Boxes(torch.from_numpy(boxes)),
        scores=torch.from_numpy(scores),
        pred_classes=torch.from_numpy(classes),
        pred_masks=torch.from_numpy(masks)[:, None],
    )
    results.pred_boxes.clip(net)
    clipped = results.pred_boxes.tensor.numpy().copy()
    expected = detector_postprocess(results, *image)  # Detectron2's scales its input's boxes
    outputs = {"boxes": clipped, "scores": scores, "classes": classes, "masks": masks}
    # What the graph fills up with, behind the detections.
    outputs = {k: np.concatenate([v, np.zeros_like(v[:3])]) for k, v in outputs.items()}
    found = detections(outputs, np.array(net), *image)
    assert 0 < len(expected) < 60
    np.testing.assert_allclose(found["boxes"], expected.pred_boxes.tensor, rtol=1e-6)
    np.testing.assert_array_equal(found["scores"], expected.scores)
    np.testing.assert_array_equal(found["classes"], expected.pred_classes)
    assert found["masks"].dtype == bool and found["masks"].shape == (len(expected), *image)
    different = (found["masks"] != expected.pred_masks.numpy()).sum()
    assert different <= 3, f"{different} of {expected.pred_masks.sum()} pixels"


def test_without_masks_and_without_detections():
    outputs = {
        "boxes": np.zeros((4, 4), np.float32),
        "scores": np.zeros(4, np.float32),
        "classes": np.zeros(4, np.int64),
    }
    found = detections(outputs, np.array([32, 32]), 50, 60)
    assert {k: v.shape for k, v in found.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "classes": (0,),
    }
    outputs["masks"] = np.zeros((4, 28, 28), np.float32)
    assert detections(outputs, np.array([32, 32]), 50, 60)["masks"].shape == (0, 50, 60)
