"""Pooling, and the heads on regions: sampling, losses, inference, masks, cascade."""

import numpy as np
import pytest
import torch
from detectron2.layers import ROIAlign, ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    ROIHeads,
    StandardROIHeads,
    select_foreground_proposals,
)
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from golden_inputs import assert_golden, random_boxes
from torch import nn

BAD_INPUT = (AssertionError, ValueError)
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def _boxes(*rows):
    return Boxes(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4))


# ---------------------------------------------------------------- pooling


def _pooler(output_size=7, scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32), **kwargs):
    return ROIPooler(
        output_size, scales, **{"sampling_ratio": 0, "pooler_type": "ROIAlignV2"} | kwargs
    )


def _pooler_inputs():
    r = np.random.RandomState(30)
    maps = [
        torch.from_numpy(r.standard_normal((2, 3, 64 // 2**i, 80 // 2**i)).astype(np.float32))
        for i in range(4)
    ]
    boxes = [random_boxes(seed, n, 320, 256, 6, 300) for seed, n in ((31, 7), (32, 5))]
    return maps, [Boxes(b) for b in boxes]


@pytest.mark.parametrize("size", [7, 14])
def test_pooler(golden, size):
    """RoIAlign, aligned, as many samples as a bin has pixels, on the level of each box."""
    pooled = _pooler(size)(*_pooler_inputs())
    assert pooled.shape == (12, 3, size, size)
    part = pooled if size == 7 else pooled[:, :1, ::3, ::3]
    assert_golden(part, golden[f"pooler/{size}"], 1e-4)


def test_pooler_levels(golden):
    """floor(4 + log2(sqrt(area) / 224 + 1e-8)), clamped to the levels."""
    assert_golden(
        assign_boxes_to_levels(_pooler_inputs()[1], 2, 5, 224, 4), golden["pooler/levels"], 0
    )
    sides = (0.0, 55.999, 56.0, 111.9999, 112.0, 223.9999, 224.0, 447.9999, 448.0, 900.0)
    squares = Boxes(torch.tensor([[0, 0, side, side] for side in sides]))
    levels = assign_boxes_to_levels([squares], 2, 5, 224, 4)
    assert_golden(levels, golden["pooler/level_edges"], 0)


def test_pooler_of_one_level_is_roi_align():
    """One level takes all boxes; rows are the images' boxes in order."""
    maps, boxes = _pooler_inputs()
    pooled = _pooler(scales=(1 / 4,))(maps[:1], boxes)
    second = torch.cat([torch.ones(5, 1), boxes[1].tensor], dim=1)
    expected = ROIAlign((7, 7), 1 / 4, sampling_ratio=0)(maps[0], second)
    torch.testing.assert_close(pooled[7:], expected, rtol=0, atol=0)


def test_pooler_without_boxes(golden):
    """No boxes give (0, C, H, W), and a gradient of 0 for every level."""
    maps, _ = _pooler_inputs()
    maps = [m.requires_grad_() for m in maps]
    pooled = _pooler(14)(maps, [_boxes(), _boxes()])
    assert list(pooled.shape) == golden["pooler/empty_shape"].tolist()
    pooled.sum().backward()
    assert all(m.grad.abs().max() == 0 for m in maps)


def test_pooler_checks_its_input():
    for scales in ((1 / 4, 1 / 16), (0.3,)):
        with pytest.raises(BAD_INPUT):
            _pooler(scales=scales)
    maps, boxes = _pooler_inputs()
    with pytest.raises(BAD_INPUT):
        _pooler()(maps[:2], boxes)
    with pytest.raises(BAD_INPUT):
        _pooler()(maps, boxes[:1])


# ---------------------------------------------------------------- sampling of proposals


def test_appended_ground_truth_has_a_high_logit():
    """Ground truth is appended with logit log((1 - 1e-10) / (1 - (1 - 1e-10))) = 23.03."""
    proposals = Instances(
        (10, 10), proposal_boxes=_boxes([0, 0, 5, 5]), objectness_logits=torch.tensor([1.0])
    )
    targets = Instances((10, 10), gt_boxes=_boxes([1, 1, 3, 3]), gt_classes=torch.tensor([2]))
    for gt in (targets, targets.gt_boxes):
        (both,) = add_ground_truth_to_proposals([gt], [proposals])
        assert both.proposal_boxes.tensor.tolist() == [[0, 0, 5, 5], [1, 1, 3, 3]]
        torch.testing.assert_close(both.objectness_logits, torch.tensor([1.0, 23.025850]))
        assert sorted(both.get_fields()) == ["objectness_logits", "proposal_boxes"]


def _label_and_sample(targets, proposals, **kwargs):
    arguments = dict(
        num_classes=3,
        batch_size_per_image=8,
        positive_fraction=0.25,
        proposal_matcher=Matcher([0.5], [0, 1]),
    )
    with EventStorage() as storage:
        (sampled,) = ROIHeads(**{**arguments, **kwargs}).label_and_sample_proposals(
            [proposals], [targets]
        )
    return sampled, {name: value for name, (value, _) in storage.latest().items()}


def _proposals(*rows):
    boxes = _boxes(*rows)
    return Instances((90, 90), proposal_boxes=boxes, objectness_logits=torch.zeros(len(boxes)))


def test_sampled_proposals_carry_their_ground_truth():
    """IoU >= .5 is foreground; gt_* fields are copied by match; background is num_classes."""
    targets = Instances(
        (90, 90),
        gt_boxes=_boxes([0, 0, 10, 10], [40, 40, 60, 60]),
        gt_classes=torch.tensor([1, 2]),
        gt_masks=PolygonMasks([[np.arange(6.0)], [np.arange(8.0)]]),
        other=torch.tensor([5, 6]),
    )
    proposals = _proposals([40, 40, 60, 50], [40, 40, 60, 49], [70, 70, 80, 80])  # IoU .5, .45, 0
    sampled, logged = _label_and_sample(targets, proposals, positive_fraction=1.0)
    order = sampled.gt_classes.argsort()
    assert sampled.gt_classes[order].tolist() == [1, 2, 2, 3, 3]  # two of them appended
    assert (sampled.gt_classes[:3] < 3).all()  # foreground first
    assert [len(p[0]) for p in sampled[order].gt_masks.polygons[:3]] == [6, 8, 8]
    assert sampled[order].gt_boxes.tensor[0].tolist() == [0, 0, 10, 10]
    assert not sampled.has("other")
    assert logged == {"roi_head/num_fg_samples": 3, "roi_head/num_bg_samples": 2}
    foreground, masks = select_foreground_proposals([sampled], bg_label=3)
    assert len(foreground[0]) == masks[0].sum() == 3


def test_sampling_takes_a_quarter_of_foreground():
    """int(8 * .25) = 2 foreground at most, background fills up."""
    targets = Instances((90, 90), gt_boxes=_boxes([0, 0, 10, 10]), gt_classes=torch.tensor([0]))
    proposals = _proposals(*[[0, 0, 10, 10]] * 20, *[[50, 50, 60, 60]] * 20)
    sampled, _ = _label_and_sample(targets, proposals)
    assert sampled.gt_classes.tolist() == [0] * 2 + [3] * 6


def test_image_without_ground_truth():
    """All is background, and there is no gt_boxes field."""
    targets = Instances((90, 90), gt_boxes=_boxes(), gt_classes=torch.zeros(0, dtype=torch.long))
    sampled, _ = _label_and_sample(targets, _proposals([0, 0, 10, 10]))
    assert sampled.gt_classes.tolist() == [3]
    assert not sampled.has("gt_boxes")


# ---------------------------------------------------------------- box branch


def _detection_inputs():
    """40 jittered boxes in 90x120, the same per class (3), and scores."""
    r = np.random.RandomState(40)
    boxes = random_boxes(41, 8, 120, 90, 15, 60).repeat(5, 1)
    boxes += torch.from_numpy(r.uniform(-4, 4, (40, 4)).astype(np.float32))
    logits = torch.from_numpy(r.standard_normal((40, 4)).astype(np.float32) * 2)
    offsets = torch.from_numpy(r.uniform(-6, 6, (40, 3, 4)).astype(np.float32))
    return boxes, (boxes[:, None] + offsets).flatten(1), torch.softmax(logits, 1)  # (40, 12)


@pytest.mark.parametrize("kind", ["agnostic", "perclass"])
def test_inference(golden, kind):
    """Score > .05 over (region, class), clip, NMS .5 per class, best 25; shared boxes too."""
    agnostic, perclass, scores = _detection_inputs()
    boxes = agnostic if kind == "agnostic" else perclass
    (found, nothing), (rows, _) = fast_rcnn_inference(
        [boxes, boxes[:0]], [scores, scores[:0]], [(90, 120)] * 2, 0.05, 0.5, 25
    )
    assert_golden(found.pred_boxes.tensor, golden[f"frcnn/{kind}/boxes"], 1e-4)
    assert_golden(found.scores, golden[f"frcnn/{kind}/scores"], 1e-6)
    assert_golden(found.pred_classes, golden[f"frcnn/{kind}/classes"], 0)
    assert_golden(rows, golden[f"frcnn/{kind}/kept"], 0)
    assert len(nothing) == 0


def test_inference_score_threshold_is_strict():
    """A score equal to the threshold is dropped, as is every row with inf or nan."""
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 40, 40], [float("nan"), 0, 9, 9]])
    scores = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.75, 0.0], [1.0, 0, 0]])
    (found,), _ = fast_rcnn_inference([boxes], [scores], [(30, 30)], 0.25, 0.5, 100)
    assert found.scores.tolist() == [0.75, 0.5]
    assert found.pred_classes.tolist() == [1, 0]
    assert found.pred_boxes.tensor.tolist() == [[20, 20, 30, 30], [0, 0, 9, 9]]


def _output_layers(**kwargs):
    arguments = dict(box2box_transform=Box2BoxTransform(weights=BOX_WEIGHTS), num_classes=3)
    return FastRCNNOutputLayers(ShapeSpec(channels=4), **{**arguments, **kwargs})


def _loss_inputs(kind):
    boxes, proposals = _detection_inputs()[0], []
    for i, n in enumerate((25, 15)):
        shift = np.random.RandomState(44 + i).uniform(0, 5, (n, 1)).astype(np.float32)
        classes = np.random.RandomState(42 + i).randint(0, 4, n)
        proposals.append(
            Instances(
                (90, 120),
                proposal_boxes=Boxes(boxes[:n]),
                gt_classes=torch.from_numpy(classes),
                gt_boxes=Boxes(boxes[:n] + torch.from_numpy(shift)),
            )
        )
    num_deltas = 4 if kind == "agnostic" else 12
    logits = np.random.RandomState(47).standard_normal((40, 4)).astype(np.float32)
    deltas = np.random.RandomState(46).standard_normal((40, num_deltas)).astype(np.float32)
    return (torch.from_numpy(logits), torch.from_numpy(deltas)), proposals


@pytest.mark.parametrize("kind", ["agnostic", "perclass"])
def test_box_losses(golden, golden_json, kind):
    """CE is the mean over all regions; L1 the sum over foreground by the number of all regions."""
    layers = _output_layers(cls_agnostic_bbox_reg=kind == "agnostic")
    with EventStorage() as storage:
        losses = layers.losses(*_loss_inputs(kind))
    values = torch.stack([losses["loss_cls"], losses["loss_box_reg"]]).double()
    assert_golden(values, golden[f"frcnn/{kind}/losses"], 1e-5)
    logged = {name: value for name, (value, _) in storage.latest().items()}
    assert logged == pytest.approx(golden_json[f"frcnn/{kind}/scalars"])


def test_box_loss_takes_the_deltas_of_the_true_class():
    """Only the set of 4 of the true class counts, and a background region only in the divisor."""
    layers = _output_layers()
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 2)
    deltas = torch.zeros(2, 12)
    deltas[0, 4:8] = torch.tensor([1.0, 0, 0, 0])  # region 0, class 1
    deltas[0, :4] = deltas[1][:4] = 100
    loss = layers.box_reg_loss(boxes, boxes, deltas, torch.tensor([1, 3]))
    torch.testing.assert_close(loss, torch.tensor(1 / 2))


def test_output_layers_shapes_keys_and_init():
    """K + 1 scores, K * 4 deltas (4 if agnostic); normal with std .01 and .001, biases 0."""
    torch.manual_seed(0)
    layers = FastRCNNOutputLayers(
        ShapeSpec(channels=64, height=2, width=2),
        box2box_transform=Box2BoxTransform(weights=BOX_WEIGHTS),
        num_classes=80,
    )
    shapes = {name: tuple(p.shape) for name, p in layers.named_parameters()}
    assert shapes == {
        "cls_score.weight": (81, 256),
        "cls_score.bias": (81,),
        "bbox_pred.weight": (320, 256),
        "bbox_pred.bias": (320,),
    }
    assert layers.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert layers.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert layers.cls_score.bias.abs().max() == layers.bbox_pred.bias.abs().max() == 0
    assert _output_layers(cls_agnostic_bbox_reg=True).bbox_pred.out_features == 4
    scores, deltas = layers(torch.zeros(5, 64, 2, 2))
    assert (scores.shape, deltas.shape) == ((5, 81), (5, 320))


def test_box_head_shapes_and_keys():
    """conv1…, fc1…; a conv with a norm has no bias; output_shape is that of the last layer."""
    head = FastRCNNConvFCHead(
        ShapeSpec(channels=8, height=7, width=7), conv_dims=[16, 16], fc_dims=[32], conv_norm="LN"
    )
    assert list(head.state_dict()) == [
        "conv1.weight",
        "conv1.norm.weight",
        "conv1.norm.bias",
        "conv2.weight",
        "conv2.norm.weight",
        "conv2.norm.bias",
        "fc1.weight",
        "fc1.bias",
    ]
    assert head.output_shape == ShapeSpec(channels=32)
    assert head(torch.zeros(5, 8, 7, 7)).shape == (5, 32)
    conv_only = FastRCNNConvFCHead(
        ShapeSpec(channels=8, height=7, width=7), conv_dims=[16], fc_dims=[]
    )
    assert conv_only.output_shape == ShapeSpec(channels=16, height=7, width=7)


# ---------------------------------------------------------------- mask branch


def _mask_instances(kind):
    """One instance of class 1, whose mask is the left half of its box."""
    half = np.array([0.0, 0, 4, 0, 4, 8, 0, 8])
    bitmap = torch.zeros(1, 10, 10, dtype=torch.bool)
    bitmap[0, :8, :4] = True
    masks = PolygonMasks([[half]]) if kind == "polygon" else BitMasks(bitmap)
    return Instances(
        (10, 10),
        proposal_boxes=_boxes([0, 0, 8, 8]),
        gt_classes=torch.tensor([1]),
        gt_masks=masks,
    )


@pytest.mark.parametrize("kind", ["polygon", "bitmask"])
def test_mask_loss_by_hand(kind):
    """BCE mean on the true class, of targets cut out at the proposal; accuracy is logged."""
    logits = torch.full((1, 2, 4, 4), 50.0)
    logits[0, 1, :, :2] = 1.0  # right, but not sure
    logits[0, 1, :, 2:] = -100.0
    logits[0, 1, 0, 3] = 3.0  # one of the eight background pixels is wrong
    with EventStorage() as storage:
        loss = mask_rcnn_loss(logits, [_mask_instances(kind)])
    expected = (8 * np.log1p(np.exp(-1)) + (3 + np.log1p(np.exp(-3)))) / 16
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float32))
    logged = {name: value for name, (value, _) in storage.latest().items()}
    assert logged == {
        "mask_rcnn/accuracy": 15 / 16,
        "mask_rcnn/false_positive": 1 / 8,
        "mask_rcnn/false_negative": 0,
    }


def test_mask_loss_without_foreground_is_zero():
    """No foreground: 0, with a gradient of 0 for the head."""
    logits = torch.zeros(0, 2, 4, 4, requires_grad=True)
    with EventStorage():
        loss = mask_rcnn_loss(logits, [_mask_instances("polygon")[:0]])
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None


def test_mask_inference_takes_the_predicted_class():
    """pred_masks (N, 1, M, M) are probabilities for the predicted class; or shared by all."""
    logits = torch.arange(12.0).reshape(3, 4, 1, 1)
    instances = [Instances((9, 9), pred_classes=torch.tensor(c)) for c in ([2], [0, 3])]
    mask_rcnn_inference(logits, instances)
    expected = torch.tensor([2.0, 4.0, 11.0]).sigmoid()
    assert instances[1].pred_masks.shape == (2, 1, 1, 1)
    torch.testing.assert_close(torch.cat([x.pred_masks for x in instances]).flatten(), expected)
    mask_rcnn_inference(logits[:, :1], instances)
    torch.testing.assert_close(instances[0].pred_masks, logits[:1, :1].sigmoid())


def test_mask_head_shapes_keys_and_init():
    """mask_fcn1…, deconv (x2), predictor; the last of conv_dims is the deconv.

    Convolutions start with std sqrt(2 / fan_out).
    """
    torch.manual_seed(0)
    head = MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=8, height=14, width=14),
        num_classes=80,
        conv_dims=[16, 16, 64],
        conv_norm="LN",
    )
    assert [k for k in head.state_dict() if k.endswith("weight")] == [
        "mask_fcn1.weight",
        "mask_fcn1.norm.weight",
        "mask_fcn2.weight",
        "mask_fcn2.norm.weight",
        "deconv.weight",
        "predictor.weight",
    ]
    assert head.layers(torch.zeros(2, 8, 14, 14)).shape == (2, 80, 28, 28)
    assert head.predictor.weight.std().item() == pytest.approx(0.001, rel=0.05)
    fan_out = 16 * 3 * 3
    assert head.mask_fcn1.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_postprocess_by_hand():
    """Scale by (W / w, H / h), clip, drop what is empty, paste masks as bool."""
    results = Instances(
        (10, 20),
        pred_boxes=_boxes([1, 1, 5, 5], [21, 0, 25, 3], [18, 2, 30, 12]),
        scores=torch.tensor([3.0, 2, 1]),
        pred_masks=torch.ones(3, 1, 28, 28),
    )
    out = detector_postprocess(results, 20, 60)
    assert out.image_size == (20, 60)
    assert out.scores.tolist() == [3, 1]
    assert out.pred_boxes.tensor.tolist() == [[3, 2, 15, 10], [54, 4, 60, 20]]
    expected = torch.zeros(2, 20, 60, dtype=torch.bool)
    expected[0, 2:10, 3:15] = True
    expected[1, 4:20, 54:60] = True
    torch.testing.assert_close(out.pred_masks, expected)


# ---------------------------------------------------------------- whole heads


def _heads(cls, **kwargs):
    """Heads on one map "p2" of 4 channels and stride 4; three stages for a cascade."""
    stages = 3 if cls is CascadeROIHeads else 1
    shape = ShapeSpec(channels=4, height=7, width=7)
    weights = [(10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)]
    parts = dict(
        box_head=[FastRCNNConvFCHead(shape, conv_dims=[], fc_dims=[8]) for _ in range(stages)],
        box_predictor=[
            FastRCNNOutputLayers(
                8, box2box_transform=Box2BoxTransform(w), num_classes=3, cls_agnostic_bbox_reg=True
            )
            for w in weights[:stages]
        ],
        proposal_matcher=[Matcher([0.5 + 0.1 * k], [0, 1]) for k in range(stages)],
    )
    if stages == 1:
        parts = {name: part[0] for name, part in parts.items()}
    else:
        parts = {
            "box_heads": parts["box_head"],
            "box_predictors": parts["box_predictor"],
            "proposal_matchers": parts["proposal_matcher"],
        }
    return cls(
        num_classes=3,
        batch_size_per_image=16,
        positive_fraction=0.25,
        box_in_features=["p2"],
        box_pooler=_pooler(scales=(1 / 4,)),
        **parts,
        **kwargs,
    )


def _run_heads(heads, maps):
    targets = Instances(
        (90, 90), gt_boxes=_boxes([0, 0, 40, 40], [30, 30, 80, 60]), gt_classes=torch.tensor([0, 2])
    )
    proposals = _proposals([0, 0, 38, 40], [2, 2, 30, 44], [30, 28, 84, 60], [60, 60, 80, 80])
    torch.manual_seed(1)
    with EventStorage() as storage:
        _, losses = heads(None, {"p2": maps}, [proposals], [targets])
    return losses, storage.latest()


def test_cascade_losses_and_logs_are_named_by_stage():
    """Losses *_stage{k}; every stage logs under stage{k}/, and its own sample counts."""
    torch.manual_seed(0)
    losses, logged = _run_heads(_heads(CascadeROIHeads), torch.randn(1, 4, 23, 23))
    assert sorted(losses) == [
        f"{n}_stage{k}" for n in ("loss_box_reg", "loss_cls") for k in range(3)
    ]
    assert "roi_head/num_fg_samples" in logged
    for name in ("stage1/roi_head/num_fg_samples", "stage2/fast_rcnn/cls_accuracy"):
        assert name in logged
    # Later stages take all boxes that the first sampled, 4 foreground and 1 background of them.
    counts = [logged[f"stage2/roi_head/num_{kind}_samples"][0] for kind in ("fg", "bg")]
    assert sum(counts) == 5


def test_cascade_scales_the_gradient_of_features():
    """The gradient from each of 3 stages to the features is a third of that of a single head."""
    torch.manual_seed(0)
    cascade = _heads(CascadeROIHeads)
    single = _heads(StandardROIHeads)
    single.box_head.load_state_dict(cascade.box_head[0].state_dict())
    single.box_predictor.load_state_dict(cascade.box_predictor[0].state_dict())
    maps = torch.randn(1, 4, 23, 23)
    gradients = []
    for heads, name in ((single, "loss_cls"), (cascade, "loss_cls_stage0")):
        x = maps.clone().requires_grad_()
        losses, _ = _run_heads(heads, x)
        gradients.append(torch.autograd.grad(losses[name], x)[0])
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1] * 3, gradients[0])


def test_cascade_averages_scores_and_takes_the_last_boxes():
    """Scores are the mean over the stages; boxes are those of the last."""
    heads = _heads(CascadeROIHeads).eval()
    for k, predictor in enumerate(heads.box_predictor):
        nn.init.zeros_(predictor.cls_score.weight)
        nn.init.zeros_(predictor.bbox_pred.weight)
        predictor.cls_score.bias.data = torch.tensor([float(k), 0, 0, 0])
        # dx = 0.1 in the weights of the stage: every stage moves the box by a tenth.
        predictor.bbox_pred.bias.data = torch.tensor([(1.0, 2.0, 3.0)[k], 0, 0, 0])
    with torch.no_grad():
        (found,), losses = heads(
            None, {"p2": torch.zeros(1, 4, 23, 23)}, [_proposals([10, 10, 30, 30])]
        )
    probability = torch.stack(
        [torch.tensor([float(k), 0, 0, 0]).softmax(0)[0] for k in range(3)]
    ).mean()
    assert losses == {}
    torch.testing.assert_close(found.scores[0], probability)
    torch.testing.assert_close(found.pred_boxes.tensor[0], torch.tensor([16.0, 10, 36, 30]))


def test_cascade_drops_empty_boxes_in_training_only():
    """A box moved out of the image is dropped between stages, but in inference rows stay rows."""
    heads = _heads(CascadeROIHeads)
    for predictor in heads.box_predictor:
        nn.init.zeros_(predictor.bbox_pred.weight)
    heads.box_predictor[0].bbox_pred.bias.data = torch.tensor([100.0, 0, 0, 0])  # by 10 widths
    maps = torch.zeros(1, 4, 23, 23)
    losses, logged = _run_heads(heads, maps)
    assert losses["loss_cls_stage0"] > 0
    assert losses["loss_cls_stage1"] == losses["loss_cls_stage2"] == 0
    assert logged["stage1/roi_head/num_bg_samples"][0] == 0
    with torch.no_grad():
        (found,), _ = heads.eval()(None, {"p2": maps}, [_proposals([10, 10, 30, 30])])
    assert found.pred_boxes.tensor[0].tolist() == [90, 10, 90, 30]


def test_cascade_keys():
    """box_head.{k}.* and box_predictor.{k}.*"""
    keys = _heads(CascadeROIHeads).state_dict()
    assert {k.rsplit(".", 2)[0] for k in keys} == {
        f"{part}.{k}" for part in ("box_head", "box_predictor") for k in range(3)
    }
    with pytest.raises(BAD_INPUT):
        _heads(CascadeROIHeads, proposal_matcher=Matcher([0.5], [0, 1]))


@pytest.mark.lite_only
@pytest.mark.parametrize(
    "option", [{"train_on_pred_boxes": True}, {"keypoint_head": nn.Identity()}]
)
def test_heads_refuse_what_they_have_not_got(option):
    with pytest.raises(NotImplementedError, match="install Detectron2"):
        _heads(StandardROIHeads, **option)


@pytest.mark.lite_only
@pytest.mark.parametrize(
    "option", [{"use_fed_loss": True}, {"use_sigmoid_ce": True}, {"box_reg_loss_type": "ciou"}]
)
def test_output_layers_refuse_what_they_have_not_got(option):
    with pytest.raises(NotImplementedError, match="install Detectron2"):
        _output_layers(**option)
