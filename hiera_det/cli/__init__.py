"""The command `hiera-det`: one module a verb, with arguments and wiring alone.

A module has `EXAMPLES`, the end of its help; `add_arguments(parser)`; and `run(args)`, which
returns the exit status or nothing. torch is imported inside `run`, so that help answers at once.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["VERBS", "console", "main"]

VERBS = {
    "train": "train a detector from a config, and evaluate it",
    "eval": "evaluate a detector's weights",
    "predict": "find objects on images and videos with a trained detector",
    "pretrain": "pretrain a trunk as a masked autoencoder (MAE) on a folder of images",
    "finetune": "fine-tune a pretrained trunk for classification",
    "probe": "linear probe: how well a frozen trunk's features tell classes apart",
    "reconstruct": "draw what a masked autoencoder makes of masked images",
    "convert": "convert the weights of any public Hiera, or take the trunk out of a run",
    "export": "write a detector as an ONNX or torch.export file",
    "convert-data": "turn YOLO, Pascal VOC, masks or label maps into COCO JSON",
    "check-data": "say what is wrong with a COCO-format dataset, or repair it",
    "visualize-data": "draw what the model sees of a dataset in training",
    "analyze": "parameters and multiply-adds of a config",
    "benchmark": "speed and memory beside other implementations",
    "plot": "draw the curves of a run",
    "doctor": "say what works on this machine, and what to do about the rest",
    "report": "write a page about a run: curves, AP, mistakes, images",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all errors of users."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help shows the options\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `hiera-det VERB …` and returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] in ("-V", "--version"):
        from hiera_det import __version__

        print(f"hiera_det {__version__}")
        return 0
    verb = argv[0]
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}"
        print(f"error: hiera-det has no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"hiera_det.cli.{verb.replace('-', '_')}")
    parser = _Parser(
        prog=f"hiera-det {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=module.EXAMPLES,
    )
    module.add_arguments(parser)
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=bool(os.environ.get("HIERA_DET_TRACEBACK")),
        help="show where an error was raised; HIERA_DET_TRACEBACK=1 does so too",
    )
    args = parser.parse_args(argv[1:])
    if getattr(args, "offline", False):
        os.environ["HIERA_DET_OFFLINE"] = "1"  # which the processes of a run inherit
    try:
        return module.run(args) or 0
    except SystemExit:
        raise
    except BaseException as error:
        return _report(error, args.traceback)


def console() -> None:
    """The entry point of the command."""
    sys.exit(main())


def _report(error: BaseException, show_traceback: bool) -> int:
    try:
        from hiera_det.engine.launch import report_error
    except ImportError as missing:  # torch or detectron2 itself
        if show_traceback:
            raise error from None
        print(f"error: {missing}", file=sys.stderr)
        return 2
    return report_error(error, show_traceback)


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {text}" for verb, text in VERBS.items()]
    return "\n".join(
        [
            "usage: hiera-det VERB [options] [key=value …]",
            "",
            "Hiera for detection: train and evaluate detectors, pretrain trunks, handle weights.",
            "",
            *lines,
            "",
            "hiera-det VERB --help shows the options of a verb, with examples.",
            "",
            "A detector learns in minutes, on any machine:",
            "  hiera-det train --config-file shapes/mask_rcnn_hiera_shapes.py",
        ]
    )
