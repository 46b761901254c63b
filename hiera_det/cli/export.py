"""Exports a detector, or its trunk and pyramid, to ONNX or torch.export.

The detector takes one image, resized and padded to a square of dataloader.image_size, and gives
boxes, scores, classes and masks, with NMS inside; hiera_det/export/postprocess.py (NumPy and
Pillow) resizes before and pastes masks after. The trunk gives the maps of the pyramid for any
number of images. The file is compared with the model on images, and kept only if they agree: boxes
to 0.1 px, scores to 1e-3, masks to an IoU of 0.99, maps to 1e-4. It says class names, sizes, mean
and std.
"""

import argparse
import os

EXAMPLES = """
examples:
  hiera-det export --weights model_final.pth --output model.onnx
  hiera-det export --weights model_final.pth --output model.pt2 --images photos
  hiera-det export --weights model_final.pth --output small.onnx --image-size 512
  hiera-det export --weights model_final.pth --output pyramid.onnx --part trunk
and then, without a model's code:
  hiera-det predict --weights model.onnx --input photos --output predictions
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--weights",
        required=True,
        metavar="FILE",
        help="a detector's checkpoint, or a run's folder",
    )
    add(
        "--config-file",
        metavar="FILE",
        help="its config; default: the one inside of the checkpoint",
    )
    add("--output", required=True, metavar="FILE", help=".onnx or .pt2; must not exist")
    add(
        "--part",
        choices=["detector", "trunk"],
        default="detector",
        help="the whole detector (default), or trunk and pyramid",
    )
    add(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="side of the square of the input, a multiple of 32; default: that of evaluation",
    )
    add(
        "--images",
        metavar="FOLDER",
        help="compare on up to 10 images of it; default: of the config's test set, or generated",
    )


def run(args: argparse.Namespace) -> None:
    from hiera_det.export.files import check_output, export_model
    from hiera_det.export.images import sample_images

    check_output(args.output)
    predictor = _predictor(args)
    images, where = sample_images(predictor.cfg, args.images)
    print(f"comparing on {len(images)} images, {where}", flush=True)
    print(export_model(predictor, args.output, images, part=args.part))


def _predictor(args: argparse.Namespace):
    """In float32 on the CPU, at `--image-size`."""
    from hiera_det.export.files import with_image_size, with_square
    from hiera_det.predict import Predictor, open_predictor
    from hiera_det.predict.predictor import weights_of_run

    how = {"device": "cpu", "precision": "fp32"}
    predictor = open_predictor(args.weights, args.config_file, **how)
    if not isinstance(predictor, Predictor):
        raise ValueError(f"--weights {args.weights} is an exported file already")
    has_square = predictor.model.backbone.padding_constraints.get("square_size", 0) > 0
    if args.image_size is not None:
        cfg = with_image_size(predictor.cfg, args.image_size)
    elif has_square:
        return predictor
    else:
        cfg = with_square(predictor.cfg)
        side = cfg.model.backbone.square_pad
        print(f"the model pads to no square: compared and written is it padding to {side} px")
    weights = weights_of_run(args.weights) if os.path.isdir(args.weights) else args.weights
    return Predictor(cfg, weights, **how)
