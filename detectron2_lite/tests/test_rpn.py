"""Anchors, box encoding, matching, sampling, and the region proposal network."""

import math

import numpy as np
import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from golden_inputs import assert_golden, random_boxes
from omegaconf import OmegaConf
from torch import nn

BAD_INPUT = (AssertionError, ValueError)


def _maps(*sizes):
    return [torch.zeros(1, 1, h, w) for h, w in sizes]


# ---------------------------------------------------------------- anchors


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_anchors_of_five_levels(golden, offset):
    """Centres at (i + offset) * stride; order by row, column, anchor."""
    generator = DefaultAnchorGenerator(
        sizes=[[32], [64], [128], [256], [512]],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=[4, 8, 16, 32, 64],
        offset=offset,
    )
    anchors = generator(_maps(*[(12 // 2**i + 1, 16 // 2**i + 1) for i in range(5)]))
    assert_golden(torch.cat([a.tensor for a in anchors]), golden[f"anchors/off{offset}"], 1e-5)
    assert_golden(torch.cat(list(generator.cell_anchors)), golden["anchors/cell"], 1e-5)


def test_anchor_by_hand():
    """Ratio 4 of size 8 is 4 wide and 16 high; it is not rounded, and centred on its position."""
    generator = DefaultAnchorGenerator(sizes=[[8]], aspect_ratios=[4.0], strides=[16], offset=0.0)
    (anchors,) = generator(_maps((1, 2)))
    assert anchors.tensor.tolist() == [[-2, -8, 2, 8], [14, -8, 18, 8]]


def test_anchor_order_and_keys(golden, golden_json):
    """For each size, for each ratio; cell anchors are not in the state dict."""
    generator = DefaultAnchorGenerator(
        sizes=OmegaConf.create([[24, 40], [64, 90]]),  # configs give ListConfig
        aspect_ratios=OmegaConf.create([[0.5, 1.0], [1.0, 2.0]]),
        strides=OmegaConf.create([8, 16]),
        offset=0.0,
    )
    anchors = generator(_maps((2, 3), (1, 2)))
    assert_golden(torch.cat([a.tensor for a in anchors]), golden["anchors/multi"], 1e-5)
    assert list(generator.state_dict()) == golden_json["anchors/state_dict_keys"] == []


def test_anchor_default_offset_and_levels():
    """The class default of the offset is 0.5; one list of sizes or ratios serves all levels."""
    generator = DefaultAnchorGenerator(sizes=[[32]], aspect_ratios=[1.0], strides=[8, 16])
    assert generator.offset == 0.5
    assert generator.num_anchors == [1, 1]
    assert generator.box_dim == 4
    with pytest.raises(BAD_INPUT):
        DefaultAnchorGenerator(sizes=[[32], [64]], aspect_ratios=[1.0], strides=[8])
    with pytest.raises(BAD_INPUT):
        DefaultAnchorGenerator(sizes=[[32]], aspect_ratios=[1.0], strides=[8], offset=1.0)


# ---------------------------------------------------------------- box encoding


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5), (30, 30, 15, 15)])
def test_box_encoding(golden, weights):
    """Centre and log encoding; weights multiply on encoding, divide on decoding."""
    source, target = random_boxes(1, 12), random_boxes(2, 12)
    transform = Box2BoxTransform(weights=tuple(float(w) for w in weights))
    name = f"b2b/w{weights[0]}"
    assert_golden(transform.get_deltas(source, target), golden[f"{name}/deltas"], 1e-5)
    deltas = np.random.RandomState(3).standard_normal((12, 12)) * np.array(weights * 3)
    decoded = transform.apply_deltas(torch.from_numpy(deltas.astype(np.float32)), source)
    assert_golden(decoded, golden[f"{name}/apply_k3"], 1e-4)
    large = torch.zeros(2, 4)
    large[:, 2:] = 1000
    assert_golden(transform.apply_deltas(large, source[:2]), golden[f"{name}/apply_clamp"], 1e-3)


def test_box_encoding_by_hand():
    """A shift by half a width is 0.5, twice the height log 2; growth is clamped at 1000 / 16."""
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    source = torch.tensor([[0.0, 0, 10, 10]])
    target = torch.tensor([[5.0, -5, 15, 15]])
    deltas = transform.get_deltas(source, target)
    torch.testing.assert_close(deltas, torch.tensor([[0.5, 0, 0, math.log(2)]]))
    torch.testing.assert_close(transform.apply_deltas(deltas, source), target)
    huge = transform.apply_deltas(torch.tensor([[0.0, 0, 100, 0]]), source)
    torch.testing.assert_close(huge[0, 2] - huge[0, 0], torch.tensor(10 * 1000 / 16))


def test_box_decoding_is_float32():
    """Deltas of half precision are decoded in float32."""
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    decoded = transform.apply_deltas(torch.zeros(1, 4).half(), torch.tensor([[0.0, 0, 2049, 2]]))
    assert decoded.dtype == torch.float32
    assert decoded.tolist() == [[0, 0, 2049, 2]]


# ---------------------------------------------------------------- matching, sampling

MATCHERS = {
    "rpn": dict(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
    "roi": dict(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
}


@pytest.mark.parametrize("name", MATCHERS)
def test_matcher(golden, name):
    """Intervals are [low, high); a tie for the best of a ground truth makes both foreground."""
    quality = np.random.RandomState(8).uniform(0, 0.9, (4, 60)).astype(np.float32)
    quality[3] *= 0.25
    quality[3, 7] = quality[3, 19] = quality[3].max() + 0.01
    matcher = Matcher(**MATCHERS[name])
    matches, labels = matcher(torch.from_numpy(quality))
    assert_golden(matches, golden[f"matcher/{name}/idx"], 0)
    assert_golden(labels, golden[f"matcher/{name}/label"], 0)
    matches, labels = matcher(torch.zeros(0, 5))
    assert_golden(torch.stack([matches, labels.long()]), golden[f"matcher/{name}/empty"], 0)


def test_matcher_by_hand():
    """Thresholds belong to the upper interval; a low-quality match keeps its own best."""
    matcher = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)
    quality = torch.tensor([[0.3, 0.7, 0.29, 0.2], [0.3, 0.1, 0.1, 0.25]])
    matches, labels = matcher(quality)
    assert matches.tolist() == [0, 0, 0, 1]  # the first among equals
    # Prediction 0 is the best of ground truth 1, so it is foreground, matched with 0.
    assert labels.tolist() == [1, 1, 0, 0]
    assert labels.dtype == torch.int8
    _, labels = Matcher([0.3, 0.7], [0, -1, 1])(quality)
    assert labels.tolist() == [-1, 1, 0, 0]


def test_matcher_checks_its_arguments():
    for bad in (([0.3, 0.7], [0, 1]), ([0.7, 0.3], [0, -1, 1]), ([0.5], [0, 2])):
        with pytest.raises(BAD_INPUT):
            Matcher(*bad)


def test_sampling(golden):
    """int(N * fraction) positives at most, negatives fill up; randperm of one, then the other."""
    labels = torch.from_numpy(np.random.RandomState(9).randint(-1, 4, 200))
    torch.manual_seed(11)
    positive, negative = subsample_labels(labels, 64, 0.25, 3)
    assert_golden(positive, golden["sampling/pos"], 0)
    assert_golden(negative, golden["sampling/neg"], 0)


def test_sampling_without_enough_positives():
    """Missing positives are replaced by negatives, missing negatives are not replaced."""
    labels = torch.tensor([1, 0, 0, 0, 0, -1])
    positive, negative = subsample_labels(labels, 4, 0.5, bg_label=0)
    assert (len(positive), len(negative)) == (1, 3)
    positive, negative = subsample_labels(torch.ones(9), 7, 0.25, bg_label=0)
    assert (len(positive), len(negative)) == (1, 0)


# ---------------------------------------------------------------- RPN

SIZES = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)]
IMAGE_SIZES = [(64, 80), (50, 70)]
GT_BOXES = [
    [0.0, 0.0, 57.312191009521484, 56.20928955078125],
    [4.7725067138671875, 0.0, 80.0, 64.0],
    [16.500520706176758, 15.608914375305176, 49.43635559082031, 48.74299621582031],
]


class FixedHead(nn.Module):
    """Gives the same random logits and deltas for any features."""

    def forward(self, features):
        r = np.random.RandomState(20)
        logits = [r.standard_normal((2, 3, h, w)).astype(np.float32) * 2 for h, w in SIZES]
        deltas = [r.standard_normal((2, 12, h, w)).astype(np.float32) * 0.4 for h, w in SIZES]
        return [torch.from_numpy(x) for x in logits], [torch.from_numpy(x) for x in deltas]


def _rpn(**kwargs):
    arguments = dict(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=FixedHead(),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[16], [32], [64], [128], [256]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=Matcher(**MATCHERS["rpn"]),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=32,
        positive_fraction=0.5,
        pre_nms_topk=(200, 100),
        post_nms_topk=(60, 30),
        nms_thresh=0.7,
    )
    return RPN(**{**arguments, **kwargs})


def _run(rpn, training):
    """Proposals, losses and logged numbers; the second image has no ground truth."""
    images = ImageList(torch.zeros(2, 3, 64, 80), IMAGE_SIZES)
    features = {f"p{i}": torch.zeros(2, 1, h, w) for i, (h, w) in enumerate(SIZES, start=2)}
    targets = [
        Instances(size, gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)))
        for size, boxes in zip(IMAGE_SIZES, [GT_BOXES, []], strict=True)
    ]
    rpn.train(training)
    torch.manual_seed(13)
    with EventStorage() as storage:
        proposals, losses = rpn(images, features, targets if training else None)
    return proposals, losses, {name: value for name, (value, _) in storage.latest().items()}


@pytest.mark.parametrize(
    ("batch_size", "name"), [(32, "rpn/losses"), (2048, "rpn/losses_undersampled")]
)
def test_rpn_losses(golden, batch_size, name):
    """Sums of BCE and L1, both divided by batch_size_per_image * N even if fewer were sampled."""
    _, losses, _ = _run(_rpn(batch_size_per_image=batch_size), training=True)
    values = torch.stack([losses["loss_rpn_cls"], losses["loss_rpn_loc"]]).double()
    assert_golden(values, golden[name], 1e-5)


def test_rpn_logs_sample_counts(golden_json):
    """rpn/num_pos_anchors and rpn/num_neg_anchors are means over the images."""
    assert _run(_rpn(), training=True)[2] == golden_json["rpn/scalars"]


@pytest.mark.parametrize("mode", ["train", "test"])
def test_rpn_proposals(golden, mode):
    """Top-k per level, clip to the image without padding, NMS per level, sorted by logit."""
    proposals, losses, _ = _run(_rpn(), training=mode == "train")
    assert bool(losses) == (mode == "train")
    for i, (found, size) in enumerate(zip(proposals, IMAGE_SIZES, strict=True)):
        assert found.image_size == size
        assert_golden(found.proposal_boxes.tensor, golden[f"rpn/{mode}/{i}/boxes"], 1e-4)
        assert_golden(found.objectness_logits, golden[f"rpn/{mode}/{i}/logits"], 1e-5)


@pytest.mark.parametrize("limit", ["pre_nms_topk", "post_nms_topk"])
def test_rpn_limits_are_for_training_and_test(limit):
    """(training, test): before NMS for each of the five levels, after it for the image."""
    rpn = _rpn(**{limit: (8, 1)})
    in_training, in_test = (len(_run(rpn, training)[0][0]) for training in (True, False))
    assert in_test <= (5 if limit == "pre_nms_topk" else 1) < in_training


def test_rpn_loss_weights():
    """One number weighs both losses, a dict each by its name."""
    plain = _run(_rpn(), training=True)[1]
    double = _run(_rpn(loss_weight=2.0), training=True)[1]
    named = _run(_rpn(loss_weight={"loss_rpn_loc": 3.0}), training=True)[1]
    torch.testing.assert_close(double, {name: 2 * loss for name, loss in plain.items()})
    torch.testing.assert_close(
        named,
        {"loss_rpn_cls": plain["loss_rpn_cls"], "loss_rpn_loc": 3 * plain["loss_rpn_loc"]},
    )


def test_rpn_ignores_anchors_that_leave_the_image():
    """With anchor_boundary_thresh >= 0 only anchors inside are sampled."""
    rpn = _rpn(anchor_boundary_thresh=0, batch_size_per_image=2048)
    size = IMAGE_SIZES[0]
    anchors = rpn.anchor_generator(_maps(*SIZES))
    targets = Instances(size, gt_boxes=Boxes(torch.tensor(GT_BOXES)))
    (labels,), _ = rpn.label_and_sample_anchors(anchors, [targets])
    inside = Boxes.cat(anchors).inside_box(size)
    assert (labels[~inside] == -1).all()
    assert (labels[inside] >= 0).any()


def _select(boxes, logits, training=False, **kwargs):
    arguments = dict(nms_thresh=0.7, pre_nms_topk=10, post_nms_topk=10, min_box_size=0.0)
    return find_top_rpn_proposals(
        [torch.tensor([level]) for level in boxes],
        [torch.tensor([level]) for level in logits],
        [(100, 100)],
        training=training,
        **{**arguments, **kwargs},
    )[0]


def test_nms_is_per_level():
    """Equal boxes of one level are merged, those of two levels are not."""
    box = [0.0, 0.0, 9.0, 9.0]
    found = _select([[box, box], [box]], [[1.0, 2.0], [3.0]])
    assert found.objectness_logits.tolist() == [3, 2]


def test_proposals_are_clipped_then_filtered():
    """What has no side left inside the image is dropped; min_box_size is strict."""
    outside, thin, good = [120.0, 0, 130, 9], [0.0, 0, 3, 9], [0.0, 50, 200, 90]
    found = _select([[outside, thin, good]], [[3.0, 2.0, 1.0]], min_box_size=3.0)
    assert found.proposal_boxes.tensor.tolist() == [[0, 50, 100, 90]]


def test_non_finite_proposals():
    """Inf and nan raise in training, and are dropped otherwise."""
    boxes = [[[float("nan"), 0, 1, 1], [0.0, 0, 5, 5]]]
    assert len(_select(boxes, [[2.0, 1.0]])) == 1
    with pytest.raises(FloatingPointError):
        _select(boxes, [[2.0, 1.0]], training=True)


def test_rpn_head_keys_and_init():
    """One conv is called conv, more conv.conv0, conv.conv1; normal with std 0.01, biases 0."""
    one = StandardRPNHead(in_channels=256, num_anchors=3)
    two = StandardRPNHead(in_channels=256, num_anchors=3, conv_dims=OmegaConf.create([-1, 64]))
    assert "conv.weight" in one.state_dict()
    assert two.state_dict()["conv.conv1.weight"].shape == (64, 256, 3, 3)
    assert two.anchor_deltas.weight.shape == (12, 64, 1, 1)
    for name, parameter in one.named_parameters():
        expected = 0.0 if name.endswith("bias") else 0.01
        assert parameter.std(unbiased=False).item() == pytest.approx(expected, rel=0.1)


@pytest.mark.lite_only
def test_rpn_refuses_other_losses():
    with pytest.raises(NotImplementedError, match="giou.*install Detectron2"):
        _rpn(box_reg_loss_type="giou")
