"""HieraBackbone's contract with Detectron2, and the whole detector's step."""

import os
import subprocess
import sys

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from hiera_det.config import load_config
from hiera_det.modeling import VARIANTS, Hiera
from hiera_det.modeling.backbone import HieraBackbone, add_hiera_config
from hiera_det.modeling.variants import build_detection_hiera

TINY = dict(
    embed_dim=8,
    num_heads=1,
    stages=(1, 1, 2, 1),
    window_size=(8, 4, 4, 2),
    pos_embed="absolute_win",
)
NAMES = ["scale2", "scale3", "scale4", "scale5"]


@pytest.mark.parametrize("size", [(64, 96), (65, 33)])
@pytest.mark.parametrize("out_features", [NAMES, ["scale4"], ["scale5", "scale2"]])
def test_output_shape_is_what_comes_out(size, out_features):
    backbone = HieraBackbone(Hiera(**TINY), out_features)
    shapes = backbone.output_shape()
    assert list(shapes) == list(out_features)
    for name, x in backbone(torch.randn(1, 3, *size)).items():
        stride = shapes[name].stride
        assert x.shape == (1, shapes[name].channels, -(-size[0] // stride), -(-size[1] // stride))
        assert stride == 2 ** int(name.removeprefix("scale"))


def test_output_norm_is_a_layernorm_over_channels():
    torch.manual_seed(0)
    backbone = HieraBackbone(Hiera(**TINY))
    raw = backbone.trunk(images := torch.randn(1, 3, 64, 64))
    for x, y in zip(raw, backbone(images).values(), strict=True):
        mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        assert_close(y, (x - mean) / (var + 1e-6).sqrt())
    bare = HieraBackbone(backbone.trunk, norm="")  # the same trunk, whole
    assert not list(bare.out_norms) and not any("out_norms" in k for k in bare.state_dict())


@pytest.mark.parametrize("freeze_at", [0, 1, 3, 4])
def test_freezing(freeze_at):
    backbone = HieraBackbone(Hiera(**TINY, drop_path_rate=0.5), freeze_at=freeze_at).train()
    last = [-1, 0, 1, 3, 4][freeze_at]
    sum(y.square().mean() for y in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    for name, p in backbone.trunk.named_parameters():
        block = int(name.split(".")[1]) if name.startswith("blocks") else -1
        frozen = freeze_at > 0 and block <= last
        assert (p.grad is None) == frozen, name
    assert [b.training for b in backbone.trunk.blocks] == [i > last for i in range(5)]


@pytest.mark.parametrize(
    "kwargs, text",
    [
        (dict(out_features=["res2"]), "choose among \\['scale2'"),
        (dict(out_features=[]), "choose among"),
        (dict(norm="BN"), "norm='BN'"),
        (dict(freeze_at=5), "freeze_at=5"),
    ],
)
def test_bad_arguments_are_named(kwargs, text):
    with pytest.raises(ValueError, match=text):
        HieraBackbone(Hiera(**TINY), **kwargs)


def test_pretraining_strides_are_refused():
    trunk = Hiera(**(TINY | dict(window_size=(8, 4, 4, 4))), q_pool=2)
    with pytest.raises(ValueError, match="q_pool=2.*needs q_pool=3"):
        HieraBackbone(trunk)


@pytest.mark.parametrize(
    "out_features, blocks", [(["scale2"], 1), (["scale4", "scale2"], 4), (["scale5"], 5)]
)
def test_stages_after_the_last_wanted_are_not_there(out_features, blocks):
    """Nothing is computed that nobody takes: every parameter gets a gradient."""
    torch.manual_seed(0)
    trunk = Hiera(**TINY)
    images = torch.randn(1, 3, 64, 96)
    expected = dict(zip(NAMES, trunk(images), strict=True))
    backbone = HieraBackbone(trunk, out_features, norm="")
    assert len(backbone.trunk.blocks) == blocks
    maps = backbone(images)
    for name in out_features:
        assert_close(maps[name], expected[name], rtol=0, atol=0)
    sum(x.square().mean() for x in maps.values()).backward()
    assert all(p.grad is not None for p in backbone.parameters())
    assert backbone.size_divisibility == 32


def test_freezing_no_more_stages_than_there_are():
    with pytest.raises(ValueError, match="freeze_at=3: 0 to 2 stages"):
        HieraBackbone(Hiera(**TINY), ["scale3"], freeze_at=3)


DDP_STEP = """
import os, sys
sys.path[:0] = [p for p in os.environ["PYTHONPATH"].split(":")]
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from hiera_det.modeling import Hiera
from hiera_det.modeling.backbone import HieraBackbone

dist.init_process_group("gloo")
torch.manual_seed(0)
trunk = Hiera(embed_dim=8, stages=(1, 1, 2, 1), pos_embed="absolute_win")
model = DistributedDataParallel(HieraBackbone(trunk, ["scale4"]))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(2):  # the second forward of DDP dies where a parameter had no gradient
    optimizer.zero_grad()
    model(torch.randn(1, 3, 64, 64))["scale4"].square().mean().backward()
    optimizer.step()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ddp_waits_for_no_gradient_of_a_stage_that_is_not_taken(tmp_path):
    (tmp_path / "step.py").write_text(DDP_STEP)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [*command, str(tmp_path / "step.py")], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_registered_for_yacs():
    assert "build_hiera_backbone" in BACKBONE_REGISTRY
    assert "build_hiera_fpn_backbone" in BACKBONE_REGISTRY


def test_yacs_config_builds():
    yacs = pytest.importorskip("yacs.config")

    class Node(yacs.CfgNode):
        pass

    cfg = Node(
        {
            "MODEL": Node(
                {
                    "FPN": Node(
                        {"IN_FEATURES": NAMES, "OUT_CHANNELS": 16, "NORM": "LN", "FUSE_TYPE": "sum"}
                    )
                }
            ),
            "INPUT": Node(),
        }
    )
    add_hiera_config(cfg)
    build = BACKBONE_REGISTRY.get("build_hiera_fpn_backbone")
    with torch.device("meta"):
        fpn = build(cfg, ShapeSpec(channels=3))
    assert isinstance(fpn, FPN) and cfg.INPUT.FORMAT == "RGB"
    assert [s.stride for s in fpn.output_shape().values()] == [4, 8, 16, 32, 64]
    for variant in ("hiera_b", "hiera_t", "sam2_hiera_bplus"):  # and all that it brings
        cfg.MODEL.HIERA.VARIANT = variant
        with torch.device("meta"):
            trunk = build(cfg, ShapeSpec(channels=3)).bottom_up.trunk
            expected = build_detection_hiera(variant)
        assert [b.window for b in trunk.blocks] == [b.window for b in expected.blocks]
        assert trunk.pos_embed_size == expected.pos_embed_size
        assert trunk.drop_path_rate == expected.drop_path_rate
    cfg.MODEL.HIERA.update(WINDOW_SIZE=[], POS_EMBED_SIZE=[], GLOBAL_ATTN_BLOCKS=[])
    with torch.device("meta"):
        trunk = build(cfg, ShapeSpec(channels=3)).bottom_up.trunk
    assert trunk.pos_embed_size == (14, 14) and all(block.window for block in trunk.blocks)
    cfg.MODEL.HIERA.VARIANT = "hiera_xl"
    with pytest.raises(ValueError, match="hiera_xl"):
        BACKBONE_REGISTRY.get("build_hiera_backbone")(cfg, ShapeSpec(channels=3))


def test_detector_parameters_equal_the_paper():
    """Table 10: 73 M for Hiera-B with Mask R-CNN."""
    with torch.device("meta"):
        model = instantiate(load_config("COCO/mask_rcnn_hiera_b").model)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 73
    assert len(model.backbone.bottom_up.trunk.blocks) == sum(VARIANTS["hiera_b"]["stages"])


def ground_truth(num: int, size: tuple[int, int]) -> Instances:
    boxes = torch.tensor([[8.0, 8.0, 60.0, 70.0], [30.0, 20.0, 100.0, 90.0]])[:num]
    polygons = [[b[[0, 1, 2, 1, 2, 3, 0, 3]].numpy().astype("float64")] for b in boxes]
    return Instances(
        size,
        gt_boxes=Boxes(boxes.reshape(-1, 4)),
        gt_classes=torch.arange(num),
        gt_masks=PolygonMasks(polygons),
    )


def test_step_with_full_half_empty_and_empty_ground_truth():
    """Every parameter gets a gradient, whatever the images hold."""
    overrides = ["dataloader.image_size=128", "model.roi_heads.batch_size_per_image=16"]
    model = instantiate(load_config("shapes/mask_rcnn_hiera_shapes", overrides).model).train()
    sizes = [(128, 128), (100, 120)]
    for counts in [(2, 1), (2, 0), (0, 0)]:
        model.zero_grad()
        batch = [
            dict(
                image=torch.randint(0, 256, (3, *size), dtype=torch.uint8),
                height=size[0],
                width=size[1],
                instances=ground_truth(n, size),
            )
            for n, size in zip(counts, sizes, strict=True)
        ]
        with EventStorage():
            losses = model(batch)
        assert set(losses) == {
            "loss_cls",
            "loss_box_reg",
            "loss_mask",
            "loss_rpn_cls",
            "loss_rpn_loc",
        }
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
        missing = [
            n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
        ]
        assert not missing
