"""Finds objects on images and videos with a trained detector.

Written are overlays, coco_instances_results.json (all detections, as evaluation writes them),
images.json (which image has which id), counts.csv and contact_sheet.png; of a video NAME.mp4 with
ids on the objects, without sound, NAME_tracks.csv and NAME_tracks.json. A checkpoint of
`hiera-det train` carries its config and the names of its classes. The exit status is 1 if a file
could not be read.
"""

import argparse

EXAMPLES = """
examples:
  a folder, with its sub-folders:
    hiera-det predict --weights output/mine/model_final.pth --input images --output found
  some files, what is surely there, and of two classes alone:
    hiera-det predict --weights output/mine --input "images/*.jpg" extra.png --output found \\
        --score 0.8 --classes cat,dog
  with the ids of an annotation file, to score it elsewhere:
    hiera-det predict --weights output/mine --input val --json val.json --output found
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--weights",
        required=True,
        metavar="FILE",
        help="a detector's checkpoint, the folder of a run, or an exported .onnx",
    )
    add(
        "--input",
        required=True,
        nargs="+",
        metavar="PATH",
        help="images, videos, folders, or patterns in quotes",
    )
    add("--output", required=True, metavar="DIR", help="a folder that is new or empty")
    add(
        "--config-file",
        metavar="FILE",
        help="of weights that carry none, or in place of theirs; a config that you trust",
    )
    add("--score", type=_share, default=0.5, help="drawn and counted is what has it (0.5)")
    add("--classes", metavar="A,B", help="names of the classes that are drawn and counted")
    add("--json", metavar="FILE", help="COCO-format annotations that say the ids of the images")
    add("--device", help="cuda, cuda:1, cpu, mps (default: a GPU where there is one)")
    add("--precision", choices=["fp32", "bf16"], help="default: that of evaluation")
    add("--batch-size", type=_positive, metavar="N", help="images at once (a GPU: 8, else 1 to 4)")
    add("--num-workers", type=_not_negative, metavar="N", help="threads that have a batch each")
    add("--tta", action="store_true", help="merge what is found on flipped and resized copies")
    add("--tile", type=_positive, metavar="PX", help="cut large images into tiles of this side")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from hiera_det.predict import find_inputs, open_predictor, predict_files
    from hiera_det.predict.inputs import image_ids

    inputs = find_inputs(args.input)
    ids = None if args.json is None else image_ids(args.json, inputs.images)
    output = _new_folder(args.output)
    predictor = open_predictor(
        args.weights, args.config_file, device=args.device, precision=args.precision
    )
    classes = _classes(args.classes, predictor.class_names)
    if inputs.skipped:
        names = ", ".join(str(path) for path in inputs.skipped[:3])
        more = f" and {len(inputs.skipped) - 3} more" if len(inputs.skipped) > 3 else ""
        print(f"skipped, no images: {names}{more}")
    shown = {"score": args.score, "classes": classes}
    failed: dict[str, str] = {}
    if inputs.images:
        summary = predict_files(
            predictor,
            inputs.images,
            output,
            ids=ids,
            batch_size=args.batch_size or _batch_size(predictor),
            num_workers=_num_workers(args.num_workers, predictor),
            predict=_variant(args, predictor),
            **shown,
        )
        failed |= summary.failed
        print(
            f"{summary.num_detections} objects of a score of at least {args.score:g} on "
            f"{summary.num_images} images: {output}"
        )
    if inputs.videos:
        from hiera_det.predict.video import predict_video

        for path, name in inputs.videos:
            try:
                result = predict_video(
                    predictor,
                    path,
                    output / Path(name).parent,
                    batch_size=args.batch_size or 4,
                    predict=_variant(args, predictor),
                    **shown,
                )
            except (ValueError, FileExistsError) as error:  # the others are still of use
                failed[name] = str(error)
                print(f"skipped: {error}")
                continue
            print(
                f"{result.num_tracks} objects in {result.num_frames} frames of {name}, without "
                f"its sound: {result.video}"
            )
    if failed:
        print(f"could not be read, {len(failed)} files: {', '.join(failed)}")
    return 1 if failed else 0


def _variant(args: argparse.Namespace, predictor):
    """The function of --tile or --tta in place of the predictor's own, or None."""
    if args.tile and args.tta:
        raise ValueError("--tile and --tta: one of them; tiles show the objects larger already")
    if args.tile:
        from hiera_det.predict.tiles import predict_tiled

        return lambda images: [predict_tiled(predictor, i, tile=args.tile) for i in images]
    if args.tta:
        from hiera_det.predict.tta import predict_augmented

        return lambda images: [predict_augmented(predictor, i) for i in images]
    return None


def _new_folder(name: str):
    from pathlib import Path

    folder = Path(name).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"--output {folder} holds files, which are kept: choose another name")
    return folder


def _classes(text: str | None, names: list[str]) -> list[str] | None:
    from hiera_det.predict.folder import class_numbers

    if text is None:
        return None
    asked = [text] if text in names else [name.strip() for name in text.split(",")]
    class_numbers(names, asked)  # before the work
    return asked


def _batch_size(predictor) -> int:
    """Images at once: on a CPU as many as have the pixels of one of 512 px, and at most 4."""
    if _is_on_gpu(predictor):
        return 8
    cfg = getattr(predictor, "cfg", None)
    side = cfg.dataloader.get("image_size") if cfg is not None else None
    return max(1, min(4, 512**2 // side**2)) if side else 1


def _is_on_gpu(predictor) -> bool:
    return getattr(getattr(predictor, "device", None), "type", "cpu") != "cpu"


def _num_workers(asked: int | None, predictor) -> int:
    import os

    # Each on a CPU has a model's activations in memory, of one image.
    most = 8 if _is_on_gpu(predictor) else 4
    return min(most, os.cpu_count() or 1) if asked is None else asked


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0 to 1")
    return value


def _not_negative(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 0")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 1")
    return int(text)
