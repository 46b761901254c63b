"""Every file under configs/ that a user may train: size, schedule, optimizer groups, one step."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from hiera_det.config import config_root
from hiera_det.modeling.variants import find_trunk
from hiera_det.report.cost import count_parameters, meta_model
from hiera_det.report.dry_run import check_groups
from hiera_det.solver import iterations

ROOT = config_root()

# Parameters of the trunk (the official encoder's, whose 56x56 table is here 7x7 and 8x8), and of
# FPN with output norms, RPN and heads together.
TRUNKS = dict(t=26849472, s=33947328, b=50464224, bplus=68659248, l=212149296, h=669952768)
HEADS = dict(t=22181680, s=22181680, b=22181680, bplus=22243600, l=22367440, h=22800880)
CASCADE_BOX_HEADS = 30_265_198  # two more, and the regression of all without classes
PARAMETERS = {
    f"COCO/{family}mask_rcnn_hiera_{size}.py": (TRUNKS[size], HEADS[size] + extra)
    for size in TRUNKS
    for family, extra in (("", 0), ("cascade_", CASCADE_BOX_HEADS))
}
# Four 3x3 convolutions with LN and no bias, a transposed one, 80 classes.
MASK_HEAD = 4 * (256 * 256 * 9 + 2 * 256) + 256 * 256 * 4 + 256 + 80 * 257
PARAMETERS |= {
    f"COCO/faster_rcnn_hiera_{size}.py": (TRUNKS[size], HEADS[size] - MASK_HEAD)
    for size in ("t", "s", "b", "bplus", "l")
}
PARAMETERS |= {
    f"COCO/mask_rcnn_sam2_hiera_{size}.py": (TRUNKS[size], HEADS[size])
    for size in ("t", "s", "bplus", "l")
}
PARAMETERS |= {
    "COCO/mask_rcnn_sam2_hiera_bplus.py": (TRUNKS["bplus"] + 147 * 112, HEADS["bplus"]),  # 14x14
    "COCO/mask_rcnn_hiera_b_sfp.py": (29790432, 22745680),
    "custom/coco_json.py": (TRUNKS["b"], HEADS["b"] - 74 * (5 * 1024 + 5) - 74 * 257),  # 6 classes
    "custom/coco_json_boxes.py": (TRUNKS["b"], HEADS["b"] - 74 * (5 * 1024 + 5) - MASK_HEAD),
    "shapes/mask_rcnn_hiera_shapes.py": (1171328, 1046784),
    "custom/auto.py": (1171328, 1046784),  # on a CPU the recipe makes that of the shapes
}
# arXiv 2306.00989, table 10, in M
PAPER = {"mask_rcnn_hiera_b": 73, "mask_rcnn_hiera_bplus": 92, "mask_rcnn_hiera_l": 236}
LEAVES = sorted(PARAMETERS)
BASES = ("COCO/mask_rcnn_hiera_b.py", "shapes/mask_rcnn_hiera_shapes.py")
FAST = (
    "COCO/mask_rcnn_hiera_t.py",
    "COCO/faster_rcnn_hiera_t.py",
)


def test_every_leaf_is_tested_here():
    found = {p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.py") if "common" not in p.parts}
    assert found == set(LEAVES)


@pytest.mark.parametrize("name", LEAVES)
def test_parameters(load, name):
    counts = count_parameters(meta_model(load(name).model))
    trunk = counts.pop("trunk")
    assert (trunk, sum(counts.values())) == PARAMETERS[name]


@pytest.mark.parametrize("name, expected", PAPER.items())
def test_parameters_are_the_papers(name, expected):
    assert sum(PARAMETERS[f"COCO/{name}.py"]) / 1e6 == pytest.approx(expected, rel=0.013)


@pytest.mark.parametrize("batch", [None, 16])
@pytest.mark.parametrize("name", LEAVES)
def test_schedule(load, name, batch):
    overrides = [] if batch is None else [f"dataloader.train.total_batch_size={batch}"]
    if "custom" in name:
        overrides.append("train.epochs=4000")  # 8 images: 50 epochs would cut the warm-up short
    cfg = load(name, *overrides)
    train, node = cfg.train, cfg.lr_multiplier
    batch = cfg.dataloader.train.total_batch_size
    assert train.max_iter == iterations(train.epochs, train.epoch_images, batch)
    assert node.max_iter == train.max_iter
    multiplier = instantiate(node)
    n, warmup = train.max_iter, node.warmup_iters
    assert multiplier(0.0) == pytest.approx(0.001)
    rising = [multiplier(i / n) for i in range(warmup + 1)]
    assert rising == sorted(rising) and len(set(rising)) == warmup + 1
    assert multiplier((warmup + 1) / n) <= rising[-1] * (1 + 1e-6)
    milestones = [round(m * n) for m in node.get("milestones", [])]
    assert all(warmup < m < n for m in milestones)
    for i, milestone in enumerate(milestones):
        assert multiplier((milestone - 1) / n) == pytest.approx(0.1**i)
        assert multiplier(milestone / n) == pytest.approx(0.1 ** (i + 1))


@pytest.mark.parametrize("name", LEAVES)
def test_optimizer_groups(load, name):
    cfg = load(name)
    model = meta_model(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    check_groups(model, optimizer.param_groups, cfg.optimizer.lr)
    _, trunk = find_trunk(model)
    parameters = dict(trunk.named_parameters())
    assert trunk.no_weight_decay() == {"pos_embed", "pos_embed_window"}
    still = {id(p) for g in optimizer.param_groups if g["weight_decay"] == 0 for p in g["params"]}
    assert all(id(parameters[name]) in still for name in trunk.no_weight_decay())


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_are_differences(name):
    lines = (ROOT / name).read_text().splitlines()
    assert len(lines) < (60 if name in BASES else 40)


@pytest.mark.parametrize("name", [n for n in LEAVES if "faster" in n or "boxes" in n])
def test_boxes_alone_differ_from_masks_in_the_masks_alone(load, name):
    masks = load(name.replace("faster_", "mask_").replace("_boxes", ""))
    for key in ("mask_in_features", "mask_pooler", "mask_head"):
        del masks.model.roi_heads[key]
    masks.dataloader.train.mapper.update(use_instance_mask=False, recompute_boxes=False)
    masks.dataloader.evaluator.tasks = ["bbox"]
    boxes = load(name)
    masks.train.output_dir = boxes.train.output_dir
    assert boxes == masks


def test_the_cascade_stands_in_one_place():
    found = [p.name for p in ROOT.rglob("*.py") if "_target_=CascadeROIHeads" in p.read_text()]
    assert found == ["cascade_mask_rcnn_hiera.py"]


# --------------------------------------------------------------------------- one training step
def batch_of_one(num_classes: int) -> list[dict]:
    """A 256 px image with an object for each level of the pyramid and one that two share."""
    image = torch.randint(0, 256, (3, 256, 256), generator=torch.Generator().manual_seed(0))
    boxes = [[8, 8, 40, 40], [60, 20, 124, 84], [100, 100, 230, 230], [2, 2, 254, 254]]
    instances = Instances((256, 256))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    instances.gt_classes = torch.arange(len(boxes)) % num_classes
    instances.gt_masks = PolygonMasks(
        [[torch.tensor([x0, y0, x1, y0, x1, y1, x0, y1]).double().numpy()]
         for x0, y0, x1, y1 in boxes]
    )  # fmt: skip
    return [{"image": image.to(torch.uint8), "instances": instances}]


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in LEAVES]
)
def test_one_training_step(load, name):
    torch.manual_seed(0)
    overrides = [
        "dataloader.image_size=256",
        "model.proposal_generator.post_nms_topk=[12,12]",  # with the objects few enough that all
        "model.roi_heads.batch_size_per_image=64",  # positives are taken, at most a quarter
    ]
    cfg = load(name, *overrides)
    model = instantiate(cfg.model).train()
    if "cascade" in name:  # large random steps could leave the later stages without an object
        for predictor in model.roi_heads.box_predictor:
            predictor.bbox_pred.weight.data *= 0.01
    for block in find_trunk(model)[1].blocks:
        block.drop_path.drop_prob = 0.0  # a dropped branch of a batch of one has no gradient
    with EventStorage(0):
        losses = model(batch_of_one(cfg.model.roi_heads.num_classes))
    assert all(loss.isfinite() for loss in losses.values()), losses
    stages = ("_stage0", "_stage1", "_stage2") if "cascade" in name else ("",)
    assert set(losses) == {
        "loss_rpn_cls",
        "loss_rpn_loc",
        *(("loss_mask",) if cfg.model.roi_heads.get("mask_head") else ()),
        *(f"{loss}{stage}" for loss in ("loss_cls", "loss_box_reg") for stage in stages),
    }
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), f"{name}: the gradient is zero"
