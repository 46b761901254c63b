#!/usr/bin/env python
"""Seconds of `hiera-det predict` on a folder, and of a plain loop of the model over its images.

The loop does for each image what most scripts do: read and resize it, run the model, draw what it
finds, and write the overlay. `predict` also writes COCO's JSON, the counts and the contact sheet.
Both use the same functions on the same files in the same process, in alternation.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hiera_det.predict import find_inputs, open_predictor, predict_files
from hiera_det.report.predictions import draw_instances

EXAMPLES = """
Example:
  python benchmarks/predict.py output/mask_rcnn_hiera_shapes ../shared/coco_tiny/val2017
"""
SCORE = 0.5


def plain_loop(predictor, files, output: Path) -> None:
    (output / "overlays").mkdir(parents=True)
    for path, name in files:
        pixels = predictor.pixels(path)
        with torch.no_grad():
            outputs = predictor.model([predictor.model_input(pixels)])
        found = outputs[0]["instances"].to("cpu")
        found = found[found.scores >= SCORE]
        numbers = found.pred_classes.tolist()
        drawn = draw_instances(
            pixels,
            found.pred_boxes.tensor,
            [predictor.class_names[k] for k in numbers],
            [predictor.class_colors[k] for k in numbers],
            found.pred_masks if found.has("pred_masks") else None,
            found.scores.tolist(),
        )
        Image.fromarray(drawn).save(output / "overlays" / Path(name).name, quality=90)


def benchmark(predictor, loop_predictor, files, batch_size: int, num_workers: int, rounds: int):
    """Seconds of each way, by round; the first round warms up and is left out."""
    ways = {
        "plain loop": lambda out: plain_loop(loop_predictor, files, out),
        "predict": lambda out: predict_files(
            predictor,
            files,
            out,
            score=SCORE,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=False,
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(rounds + 1):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                way(Path(folder) / "out")
                taken = time.perf_counter() - start
            if k:
                seconds[name].append(taken)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("weights", metavar="FILE", help="a detector's checkpoint, or the folder of a run")
    add("images", metavar="DIR", help="a folder of images")
    add("--num-images", type=int, default=80)
    add("--config-file", metavar="FILE", help="of weights that carry none")
    add("--device", help="default: a GPU where there is one")
    add("--precision", choices=["fp32", "bf16"], help="of predict; the loop has the config's")
    add("--batch-size", type=int, default=None, help="of predict (as its own default)")
    add(
        "--num-workers",
        type=int,
        default=None,
        help="of predict (as its own default)",
    )
    add("--rounds", type=int, default=3)
    args = parser.parse_args()

    from hiera_det.cli.predict import _batch_size, _num_workers

    loop_predictor = open_predictor(args.weights, args.config_file, device=args.device)
    predictor = loop_predictor
    if args.precision:
        options = {"device": args.device, "precision": args.precision}
        predictor = open_predictor(args.weights, args.config_file, **options)
    files = find_inputs([args.images]).images[: args.num_images]
    batch_size = args.batch_size or _batch_size(predictor)
    num_workers = _num_workers(args.num_workers, predictor)
    seconds = benchmark(predictor, loop_predictor, files, batch_size, num_workers, args.rounds)
    print(
        f"{len(files)} images, {predictor.device}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads of torch; predict: {predictor.precision}, batch "
        f"{batch_size}, {num_workers} threads"
    )
    for name, values in seconds.items():
        print(f"{name:10}  {np.median(values):6.2f} s  ({', '.join(f'{v:.2f}' for v in values)})")
    ratios = np.divide(seconds["plain loop"], seconds["predict"])
    print(f"ratio       {np.median(ratios):6.2f}    ({', '.join(f'{v:.2f}' for v in ratios)})")


if __name__ == "__main__":
    main()
