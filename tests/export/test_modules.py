"""The modules that are traced, beside the model that they are made of; both in PyTorch."""

import numpy as np
import pytest
import torch

from hiera_det.export.modules import ExportableBackbone, ExportableDetector
from hiera_det.export.postprocess import detections, network_input

CASES = {
    "as the config has it": [],
    "adaptive sampling": [
        "model.roi_heads.box_pooler.sampling_ratio=0",
        "model.roi_heads.mask_pooler.sampling_ratio=0",
    ],
    "a box for each class": ["model.roi_heads.box_predictor.cls_agnostic_bbox_reg=False"],
    "BGR, masks without classes, small boxes dropped": [
        "model.input_format=BGR",
        "dataloader.train.mapper.image_format=BGR",
        "model.roi_heads.mask_head.num_classes=1",
        "+model.proposal_generator.min_box_size=9.5",
    ],
    "one channel": [
        "+model.backbone.bottom_up.trunk.in_chans=1",
        "model.pixel_mean=[110.0]",
        "model.pixel_std=[60.0]",
        "model.input_format=L",
        "dataloader.train.mapper.image_format=L",
    ],
    "windows that need padding, SAM 2's": [
        "model.backbone.bottom_up.trunk.window_size=[8,4,4,2]",
        "model.backbone.bottom_up.trunk.global_attn_blocks=[3]",
    ],
    "positions of 224 px": ["model.backbone.bottom_up.trunk.pos_embed=absolute"],
    "nothing found": ["model.roi_heads.box_predictor.test_score_thresh=1.0"],
}


CASCADE_HEAD = ("input_shape.channels=16", "conv_dims=[]", "fc_dims=[32]")


def facts(built) -> dict:
    side = built.cfg.dataloader.image_size
    return {
        "image_size": side,
        "short_edge": side,
        "max_size": side,
        "input_format": built.image_format,
    }


def check_detector(built, images) -> int:
    """Compares all detections, in order and to the last digits; returns how many there were."""
    detector = ExportableDetector(built.model, built.cfg.dataloader.image_size).eval()
    count = 0
    for name, image in images:
        pixels, size = network_input(image, facts(built))
        with torch.no_grad():
            outputs = detector(torch.from_numpy(pixels), torch.from_numpy(size))
        names = ("boxes", "scores", "classes", "masks")[: len(outputs)]
        arrays = {key: value.numpy() for key, value in zip(names, outputs, strict=True)}
        found = detections(arrays, size, *image.shape[:2])
        (expected,) = built.predict_images([image])
        count += len(expected)
        np.testing.assert_allclose(
            found["boxes"], expected.pred_boxes.tensor, rtol=0, atol=1e-3, err_msg=name
        )
        np.testing.assert_allclose(found["scores"], expected.scores, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(found["classes"], expected.pred_classes)
        if expected.has("pred_masks"):
            # Where a value is 0.5 to the last digit: of all masks of an image.
            assert (found["masks"] != expected.pred_masks.numpy()).sum() <= 3, name
        else:
            assert "masks" not in found
    return count


@pytest.mark.parametrize("case", CASES)
def test_detector_finds_what_the_model_finds(case, build, images):
    count = check_detector(build(*CASES[case]), images)
    assert count == 0 if case == "nothing found" else count > 20, count


def test_cascade(build, images):
    """configs/COCO's, as small as the others; its boxes are refined three times."""
    predictors = [
        f"model.roi_heads.box_predictors.{k}.input_shape.channels=32" for k in range(3)
    ] + [f"model.roi_heads.box_heads.{k}.{key}" for k in range(3) for key in CASCADE_HEAD]
    built = build(*predictors, config="COCO/cascade_mask_rcnn_hiera_b", drop=("box_head", "box_pr"))
    assert len(built.model.roi_heads.box_predictor) == 3
    assert check_detector(built, images) > 20


def test_boxes_alone(build, images):
    built = build(config="COCO/faster_rcnn_hiera_b", drop=("mask_head",))
    assert check_detector(built, images) > 20


def test_backbone_gives_the_maps_of_each_image_of_a_batch(build, images):
    built = build()
    module = ExportableBackbone(built.model, 96).eval()
    prepared = [network_input(image, facts(built)) for _, image in images]
    with torch.no_grad():
        found = module(
            torch.from_numpy(np.stack([pixels for pixels, _ in prepared])),
            torch.from_numpy(np.stack([size for _, size in prepared])),
        )
        for k, (pixels, (height, width)) in enumerate(prepared):
            image = torch.from_numpy(pixels[:height, :width]).permute(2, 0, 1)
            maps = built.model.backbone(built.model.preprocess_image([{"image": image}]).tensor)
            assert list(maps) == module.names == ["p2", "p3", "p4", "p5", "p6"]
            for name, batch in zip(module.names, found, strict=True):
                torch.testing.assert_close(batch[k], maps[name][0], rtol=0, atol=1e-5)


def test_what_surrounds_the_pixels_is_not_seen(build, images):
    built = build()
    detector = ExportableDetector(built.model, 96).eval()
    pixels, size = network_input(images[1][1], facts(built))  # wide
    noisy = pixels.copy()
    noisy[size[0] :] = 200
    assert (noisy != pixels).any()
    with torch.no_grad():
        one, other = (
            detector(torch.from_numpy(x), torch.from_numpy(size)) for x in (pixels, noisy)
        )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_model_is_left_as_it_was(build):
    built = build()
    before = {k: v.clone() for k, v in built.model.state_dict().items()}
    ExportableDetector(built.model, 96)
    assert set(built.model.state_dict()) == set(before)
    for key, value in built.model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    assert "position_units" not in vars(built.model.backbone.bottom_up.trunk)


@pytest.mark.parametrize(
    ("override", "side", "message"),
    [
        ("model.roi_heads.box_predictor.test_topk_per_image=-1", 96, "test_topk_per_image=-1"),
        ("dataloader.image_size=96", 100, "image size 100: give a multiple of 32"),
    ],
)
def test_what_has_no_fixed_graph_is_refused(override, side, message, build):
    with pytest.raises(ValueError, match=message):
        ExportableDetector(build(override).model, side)
