"""The main job on real COCO images: the COCO config, with nothing but overrides."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/lazyconfig_train_net.py"
REDUCED = [
    "dataloader.image_size=128",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "model.backbone.bottom_up.trunk.variant=hiera_t",
    "model.backbone.bottom_up.trunk.global_attn_blocks=[5,7,9]",
    "model.proposal_generator.post_nms_topk=[50,20]",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",  # two iterations give no confidence
    "+model.roi_heads.box_predictor.test_topk_per_image=5",
    "train.max_iter=2",
    "train.num_pictures=2",
]


@pytest.mark.slow
def test_coco_config_trains_and_evaluates_by_overrides_alone(coco_tiny, tmp_path):
    (tmp_path / "coco").symlink_to(coco_tiny)
    env = os.environ | {"DETECTRON2_DATASETS": str(tmp_path)}

    def run(*args) -> str:
        done = subprocess.run(
            [sys.executable, str(TOOL), "--config-file", "COCO/mask_rcnn_hiera_b.py", *args],
            env=env,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    out = tmp_path / "run"
    log = run(*REDUCED, f"train.output_dir={out}")
    assert "iter 2/2" in log
    log = run(
        "--eval-only",
        *REDUCED,
        f"train.output_dir={out}",
        f"train.init_checkpoint={out / 'model_final.pth'}",
    )
    assert "80 images" in log.replace("Loaded 80 images", "80 images")
    for task in ("bbox", "segm"):
        assert f"copypaste: Task: {task}" in log
    assert log.count("Average Precision") + log.count("Average Recall") >= 24
