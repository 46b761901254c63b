"""The main job on COCO's files: the COCO config, with nothing but overrides."""

import json
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


def link_with_fewer_images(source: Path, folder: Path, num_images: int) -> None:
    """COCO's layout with the images of `source`, of whose validation the first ones are named."""
    (folder / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (folder / split).symlink_to(source / split)
        name = f"annotations/instances_{split}.json"
        content = json.loads((source / name).read_text())
        if split == "val2017":
            content["images"] = content["images"][:num_images]
            kept = {image["id"] for image in content["images"]}
            content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        (folder / name).write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.parametrize("data, num_images", [("coco_tiny", 12), ("generated_coco", 6)])
def test_coco_config_trains_and_evaluates_by_overrides_alone(data, num_images, request, tmp_path):
    link_with_fewer_images(request.getfixturevalue(data), tmp_path / "coco", num_images)
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
    assert f"{num_images} images" in log
    for task in ("bbox", "segm"):
        assert f"copypaste: Task: {task}" in log
    assert log.count("Average Precision") + log.count("Average Recall") >= 24
