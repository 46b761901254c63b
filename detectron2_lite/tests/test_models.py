"""Whole models with seeded weights: losses, gradients, detections, keys, initialisation."""

import golden_models
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from golden_inputs import batch, image, random_instances, seeded_model

MODELS = ["fpn", "fpn_ln", "sfp", "cascade"]


@pytest.mark.parametrize("name", MODELS)
def test_losses_gradients_and_logs(golden_json, name):
    """One training step: every loss, every logged number, the gradient norm of every parameter."""
    model = seeded_model(name).train()
    torch.manual_seed(17)
    with EventStorage() as storage:
        losses = model(batch(with_instances=True))
    sum(losses.values()).backward()

    expected = golden_json[f"model/{name}/losses"]
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    logged = {k: value for k, (value, _) in storage.latest().items()}
    expected = golden_json[f"model/{name}/scalars"]
    assert logged == pytest.approx(expected, rel=1e-4, abs=1e-6)
    norms = {
        k: None if p.grad is None else p.grad.norm().item() for k, p in model.named_parameters()
    }
    expected = golden_json[f"model/{name}/grad_norm"]
    assert norms == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_detections(golden, golden_json, name):
    """[{"instances": Instances(pred_boxes, scores, pred_classes, pred_masks)}], at the size asked
    for, by falling score."""
    with torch.no_grad():
        outputs = seeded_model(name).eval()(batch(with_instances=False))
    for i, output in enumerate(outputs):
        found, key = output["instances"], f"model/{name}/{i}"
        size, mask_size, mask_dtype, fields = golden_json[f"{key}/info"]
        assert sorted(found.get_fields()) == fields
        assert list(found.image_size) == size
        assert [*found.pred_masks.shape[1:]] == mask_size
        assert str(found.pred_masks.dtype) == mask_dtype
        for actual, part, tol in (
            (found.pred_boxes.tensor, "boxes", 1e-2),
            (found.scores, "scores", 1e-4),
            (found.pred_classes, "classes", 0),
            (found.pred_masks.flatten(1).sum(1), "mask_area", 10),
        ):
            expected = torch.from_numpy(golden[f"{key}/{part}"])
            torch.testing.assert_close(actual, expected, rtol=tol if tol < 1 else 0, atol=tol)
        bits = np.packbits(found.pred_masks[:2].numpy()[:, ::4, ::4])
        np.testing.assert_array_equal(bits, golden[f"{key}/mask0"])


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_keys(golden_json, name):
    """Names and shapes of all tensors of a checkpoint; neither anchors nor pixel mean and std."""
    state = instantiate(golden_models.MODELS[name]()).state_dict()
    shapes = {k: list(v.shape) for k, v in state.items()}
    assert shapes == golden_json[f"init/{name}/keys"]


@pytest.mark.parametrize("name", MODELS)
def test_default_initialisation(golden, name):
    """The same tensors under the same seed: every std, so also the order of the draws."""
    torch.manual_seed(0)
    state = instantiate(golden_models.MODELS[name]()).state_dict()
    std = torch.tensor([state[k].std(unbiased=False).item() for k in sorted(state)]).double()
    expected = torch.from_numpy(golden[f"init/{name}/std"])
    torch.testing.assert_close(std, expected, rtol=1e-5, atol=1e-5)


def test_images_are_normalised_then_padded_with_zeros():
    """(x - mean) / std, then 0 at the bottom and right up to a multiple of 32 (FPN)."""
    inputs = [{"image": torch.full((3, 50, 70), 255, dtype=torch.uint8)}]
    images = seeded_model("fpn").preprocess_image(inputs)
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    expected = torch.zeros(1, 3, 64, 96)
    expected[0, :, :50, :70] = (255 - mean) / std
    torch.testing.assert_close(images.tensor, expected, rtol=0, atol=1e-6)
    assert images.image_sizes == [(50, 70)]


@pytest.mark.parametrize(
    ("name", "size"), [("fpn", (224, 256)), ("fpn_ln", (256, 256)), ("sfp", (256, 256))]
)
def test_padded_size_of_a_batch(name, size):
    """square_pad replaces the maximum of the batch."""
    images = seeded_model(name).preprocess_image(batch(with_instances=False))
    assert images.tensor.shape == (2, 3, *size)


def test_sfp_without_square_pad_does_not_pad():
    """Its padding constraint is misspelt, so a single image goes in as it is."""
    config = golden_models.MODELS["sfp"]()
    config.backbone.square_pad = 0
    images = instantiate(config).preprocess_image([{"image": torch.zeros(3, 50, 70)}])
    assert images.tensor.shape == (1, 3, 50, 70)


@pytest.mark.lite_only
def test_an_image_larger_than_square_pad_is_an_error():
    """Detectron2 crops it without a word and loses what lies in the rest."""
    with pytest.raises(ValueError, match=r"200x300.*256x256.*ResizeShortestEdge\(256, 256\)"):
        seeded_model("fpn_ln").eval()([{"image": torch.zeros(3, 200, 300)}])


def test_masks_for_given_boxes():
    """inference(detected_instances=) adds masks to boxes that are there already."""
    model = seeded_model("fpn").eval()
    inputs = [{"image": image(90, 192, 256)}]
    with torch.no_grad():
        (found,) = model.inference(inputs, do_postprocess=False)
        given = Instances((192, 256), pred_boxes=found.pred_boxes, pred_classes=found.pred_classes)
        (again,) = model.inference(inputs, [given], do_postprocess=False)
    assert found.pred_masks.shape[1:] == (1, 28, 28)
    torch.testing.assert_close(again.pred_masks, found.pred_masks, rtol=0, atol=1e-6)


def test_training_step_on_images_without_instances():
    """Losses are finite, the mask loss is 0, and every parameter gets a gradient."""
    model = seeded_model("fpn_ln").train()
    inputs = [{"image": image(90, 192, 256), "instances": random_instances(1, 0, 192, 256)}]
    with EventStorage():
        losses = model(inputs)
    sum(losses.values()).backward()
    assert losses["loss_mask"].item() == losses["loss_box_reg"].item() == 0
    assert all(torch.isfinite(loss) for loss in losses.values())
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == []


@pytest.mark.parametrize("name", MODELS)
def test_model_moves_with_its_constants(name):
    """Pixel statistics and anchors follow the model, and device says where it is."""
    model = seeded_model(name)
    assert str(model.device) == "cpu"
    buffers = {k.split(".")[0] for k, _ in model.named_buffers()}
    assert {"pixel_mean", "pixel_std", "proposal_generator"} <= buffers


@pytest.mark.lite_only
def test_model_refuses_what_it_has_not_got():
    config = golden_models.MODELS["fpn"]()
    config.vis_period = 10
    with pytest.raises(Exception, match="vis_period.*install Detectron2"):
        instantiate(config)
