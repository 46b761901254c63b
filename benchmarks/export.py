"""How closely ONNX Runtime follows PyTorch, and how fast it is, for detectors of configs/COCO.

Weights are random, the last layers of the heads with noise wide enough that 100 detections are
found on every image: no ties, and scores all over the range.

    python benchmarks/export.py --images ../shared/coco_tiny/val2017 --sizes t bplus --side 512
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hiera_det.config import load_config
from hiera_det.export.files import export_model
from hiera_det.export.images import sample_images
from hiera_det.export.runtime import OnnxPredictor
from hiera_det.predict import Predictor

NOISE = {
    "roi_heads.box_predictor.cls_score": 0.15,
    "roi_heads.box_predictor.bbox_pred": 0.05,
    "roi_heads.mask_head.predictor": 0.3,
    "proposal_generator.rpn_head.objectness_logits": 0.3,
    "proposal_generator.rpn_head.anchor_deltas": 0.03,
}


def noisy_predictor(config: str, side: int, folder: Path) -> Predictor:
    """A detector of a config with random weights, seeded."""
    from detectron2.config import instantiate

    cfg = load_config(config, [f"dataloader.image_size={side}"])
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    for name, std in NOISE.items():
        torch.nn.init.normal_(model.get_submodule(name).weight, std=std)
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    return Predictor(cfg, folder / "model.pth", device="cpu", precision="fp32")


def seconds(predictor, images) -> float:
    start = time.perf_counter()
    for _, image in images:
        predictor.predict_images([image])
    return (time.perf_counter() - start) / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True, help="folder")
    parser.add_argument("--sizes", nargs="+", default=["t"], help="t, s, b, bplus, l, h")
    parser.add_argument("--side", type=int, default=512, help="px")
    args = parser.parse_args()
    for size in args.sizes:
        with TemporaryDirectory() as name:
            folder = Path(name)
            predictor = noisy_predictor(f"COCO/mask_rcnn_hiera_{size}.py", args.side, folder)
            images, _ = sample_images(predictor.cfg, args.images)
            for part in ("trunk", "detector"):
                report = export_model(predictor, folder / f"{part}.onnx", images, part=part)
                print(size, report.removeprefix(f"{folder}/"), flush=True)
            onnx = OnnxPredictor(folder / "detector.onnx", torch.get_num_threads())
            times = [seconds(p, images[:3]) for p in (predictor, onnx)]
            print(f"{size}: PyTorch {times[0]:.2f} s an image, ONNX Runtime {times[1]:.2f} s")


if __name__ == "__main__":
    main()
