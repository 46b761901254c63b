"""Test-time augmentation: a mirrored image has the mirrored result, and copies add up."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import box_iou

from hiera_det.cli import main
from hiera_det.data.images import read_image
from hiera_det.predict import Predictor
from hiera_det.predict.tta import predict_augmented


@pytest.fixture(scope="module")
def predictor(run) -> Predictor:
    predictor = Predictor.from_run(run)
    with torch.no_grad():  # hardly trained, it says 0.5 everywhere
        predictor.model.roi_heads.mask_head.predictor.weight *= 1000
    return predictor


@pytest.fixture(scope="module")
def image(images) -> np.ndarray:
    """A square one of the model's size, which the mapper leaves as it is."""
    image = read_image(sorted(images.iterdir())[0])
    assert image.shape == (64, 64, 3)
    return image


def test_a_mirrored_image_has_the_mirrored_result(predictor, image, monkeypatch):
    monkeypatch.setattr(predictor, "finish", lambda raw, height, width: raw)  # masks unthresholded
    other = np.ascontiguousarray(image[:, ::-1])
    found, mirrored = (predict_augmented(predictor, pixels) for pixels in (image, other))
    assert len(found) > 20
    found = found[:20]
    boxes = mirrored.pred_boxes.tensor
    back = torch.stack([64 - boxes[:, 2], boxes[:, 1], 64 - boxes[:, 0], boxes[:, 3]], dim=1)
    far = (found.pred_boxes.tensor[:, None] - back[None]).abs().amax(dim=2)  # (20, N), px
    far += 64.0 * (found.pred_classes[:, None] != mirrored.pred_classes[None])
    same = far.argmin(dim=1)  # the order of nearly equal scores may differ
    assert_close(back[same], found.pred_boxes.tensor, rtol=0, atol=1e-2)
    assert_close(mirrored.scores[same], found.scores, rtol=0, atol=1e-4)
    assert_close(mirrored.pred_masks[same].flip(-1), found.pred_masks, rtol=0, atol=1e-2)
    assert (mirrored.pred_masks[same] - found.pred_masks).abs().max() > 0.1
    one, two = (predictor.predict_images([pixels])[0] for pixels in (image, other))
    assert (one.scores[:5] - two.scores[:5]).abs().max() > 1e-4  # which it has not by itself


def test_limits_are_those_of_the_model(predictor, image):
    found = predict_augmented(predictor, image)
    assert len(found) <= predictor.model.roi_heads.box_predictor.test_topk_per_image
    overlaps = box_iou(found.pred_boxes.tensor, found.pred_boxes.tensor).fill_diagonal_(0)
    same = found.pred_classes[:, None] == found.pred_classes[None]
    assert overlaps[same].max() <= predictor.model.roi_heads.box_predictor.test_nms_thresh + 1e-4


def test_the_command_merges_copies(run, images, tmp_path):
    out = tmp_path / "out"
    argv = ["predict", "--weights", run, "--input", images, "--output", out, "--tta"]
    assert main([str(word) for word in argv]) == 0
    assert len(list((out / "overlays").iterdir())) == 3


def test_exported_files_have_no_copies(image):
    with pytest.raises(ValueError, match="needs a checkpoint"):
        predict_augmented(object(), image)
