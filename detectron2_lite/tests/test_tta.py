"""Test-time augmentation."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data.transforms import HFlipTransform
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNNWithTTA
from golden_inputs import image, seeded_model


class _Config(SimpleNamespace):
    """As much of a yacs config as test-time augmentation reads."""

    def clone(self):
        return self


def _config(min_sizes=(160,), flip=True):
    heads = _Config(NUM_CLASSES=3, NMS_THRESH_TEST=0.5)
    model = _Config(
        META_ARCHITECTURE="GeneralizedRCNN",
        MASK_ON=True,
        KEYPOINT_ON=False,
        LOAD_PROPOSALS=False,
        ROI_HEADS=heads,
    )
    aug = _Config(MIN_SIZES=min_sizes, MAX_SIZE=256, FLIP=flip)
    return _Config(MODEL=model, TEST=_Config(DETECTIONS_PER_IMAGE=100, AUG=aug))


def _inputs(height=192, width=160):
    return {"image": image(90, 192, 160), "height": height, "width": width, "image_id": 7}


def _model(name):
    return seeded_model(name).eval()


def test_versions_of_an_image():
    """For each size plain, then mirrored; transforms lead from the original to the version."""
    mapper = DatasetMapperTTA([96, 240], 256, flip=True)
    versions = mapper(_inputs(height=384, width=320))
    assert [tuple(v["image"].shape) for v in versions] == [(3, 115, 96)] * 2 + [(3, 256, 213)] * 2
    assert versions[0]["image"].dtype == torch.uint8
    torch.testing.assert_close(versions[1]["image"], versions[0]["image"].flip(2))
    assert [v["image_id"] for v in versions] == [7] * 4
    mirrored = [
        any(isinstance(t, HFlipTransform) for t in v["transforms"].transforms) for v in versions
    ]
    assert mirrored == [False, True, False, True]
    corner = versions[3]["transforms"].apply_coords(np.array([[0.0, 0.0], [320.0, 384.0]]))
    np.testing.assert_allclose(corner, [[213, 0], [0, 256]], atol=1e-6)


def test_versions_without_flip():
    assert len(DatasetMapperTTA([96, 240], 256, flip=False)(_inputs())) == 2


@pytest.mark.parametrize("name", ["fpn", "cascade"])
def test_one_plain_version_is_plain_inference(name):
    """Merging the detections of the unchanged image gives them back."""
    model, inputs = _model(name), [_inputs(height=288, width=200)]
    tta = GeneralizedRCNNWithTTA(_config(), model, DatasetMapperTTA([160], 256, flip=False))
    with torch.no_grad():
        (expected,), (found,) = model(inputs), tta(inputs)
    expected, found = expected["instances"], found["instances"]
    assert found.image_size == (288, 200)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.pred_classes, expected.pred_classes)
    torch.testing.assert_close(
        found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=1e-2
    )
    different = (found.pred_masks != expected.pred_masks).float().mean()
    assert different < 1e-4  # boxes went to the original image and back


def test_mirrored_inputs_give_mirrored_detections():
    """With flip, a mirrored image has the mirrored detections: both see the same two versions."""
    tta = GeneralizedRCNNWithTTA(_config(), _model("fpn"), DatasetMapperTTA([160], 256, flip=True))
    inputs = _inputs()
    mirrored = {**inputs, "image": inputs["image"].flip(2)}
    with torch.no_grad():
        a, b = (x["instances"][:20] for x in tta([inputs, mirrored]))
    torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-5)
    boxes = b.pred_boxes.tensor
    boxes[:, [0, 2]] = 160 - boxes[:, [2, 0]]
    torch.testing.assert_close(a.pred_boxes.tensor, boxes, rtol=0, atol=1e-2)
    assert (a.pred_masks != b.pred_masks.flip(2)).float().mean() < 1e-3


def test_batch_size_of_versions_does_not_matter():
    """Versions of one size give the same detections one by one as together."""
    model, mapper = _model("fpn"), DatasetMapperTTA([160], 256, flip=True)
    with torch.no_grad():
        one, both = (
            GeneralizedRCNNWithTTA(_config(), model, mapper, batch_size=n)([_inputs()])
            for n in (1, 2)
        )
    one, both = one[0]["instances"], both[0]["instances"]
    torch.testing.assert_close(one.scores, both.scores, rtol=0, atol=1e-5)
    assert one.pred_masks.shape == (100, 192, 160)
    assert model.roi_heads.mask_on  # boxes are found without masks


@pytest.mark.lite_only
def test_without_a_config():
    """A LazyConfig model needs no yacs config, only a mapper; sizes and files are optional."""
    model = _model("fpn")
    tta = GeneralizedRCNNWithTTA(None, model, DatasetMapperTTA([96], 256, flip=False))
    assert tta([{"image": image(90, 192, 160)}])[0]["instances"].image_size == (192, 160)
    assert GeneralizedRCNNWithTTA(_config((96,)), model).tta_mapper.min_sizes == (96,)
    with pytest.raises(ValueError, match="tta_mapper"):
        GeneralizedRCNNWithTTA(None, model)
