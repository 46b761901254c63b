"""The main job on data without masks: boxes are learnt, evaluated and reported alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hiera_det.data.shapes import make_shapes

TOOL = Path(__file__).parents[2] / "tools/lazyconfig_train_net.py"
SMALL = [
    "dataloader.image_size=96",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "+model.backbone.bottom_up.trunk.embed_dim=16",
    "+model.backbone.bottom_up.trunk.num_heads=1",
    "+model.backbone.bottom_up.trunk.stages=[1,1,1,1]",
    "model.backbone.bottom_up.trunk.global_attn_blocks=[]",
    "model.roi_heads.box_head.conv_dims=[]",
    "model.roi_heads.batch_size_per_image=8",
    "model.proposal_generator.post_nms_topk=[30,20]",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",  # two iterations give no confidence
    "train.max_iter=2",
    "train.log_period=1",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """A set without masks, `area` and `iscrowd`, as overrides."""
    root = make_shapes(
        tmp_path_factory.mktemp("boxes"), num_train=6, num_val=3, image_size=96, seed=2
    )
    overrides = []
    for split in ("train", "val"):
        content = json.loads((root / f"annotations/instances_{split}.json").read_text())
        annotations = [a for a in content["annotations"] if not a["iscrowd"]]
        for annotation in annotations:
            for key in ("segmentation", "area", "iscrowd"):
                del annotation[key]
        content["annotations"] = annotations
        path = root / f"{split}.json"
        path.write_text(json.dumps(content))
        overrides += [
            f"dataloader.{split}_json={path}",
            f"dataloader.{split}_images={root / split}",
        ]
    return overrides


def run(config: str, *args) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(TOOL), "--config-file", config, *args],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_boxes_train_evaluate_and_report_alone(files, tmp_path):
    out = tmp_path / "run"
    args = ["custom/coco_json_boxes.py", *files, *SMALL, f"train.output_dir={out}"]
    dry = run(args[0], "--dry-run", *args[1:])
    assert dry.returncode == 0, dry.stderr[-3000:]
    assert "0 polygon, 0 RLE" in dry.stdout and not out.exists()
    done = run(*args)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    losses = {key for row in rows for key in row if key.startswith("loss_")}
    assert losses == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    assert "bbox/AP" in rows[-1] and not any(key.startswith("segm") for key in rows[-1])
    assert 0 <= rows[-1]["bbox/APm"] <= 100  # a number: areas were there to sort by
    assert (out / "predictions.png").is_file()
    weights = torch.load(out / "model_final.pth", weights_only=True)["model"]
    assert not any("mask" in key for key in weights)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_the_masks_config_names_the_boxes_config(files, tmp_path, flags):
    out = f"train.output_dir={tmp_path / 'run'}"
    done = run("custom/coco_json.py", *flags, *files, *SMALL, out)
    assert done.returncode != 0 and "object without a mask" in done.stderr
    assert "--config-file custom/coco_json_boxes.py" in done.stderr
