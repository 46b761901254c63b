"""Options that the verbs share."""

import argparse

__all__ = ["add_offline", "add_overrides", "add_run_arguments"]


def add_run_arguments(
    parser: argparse.ArgumentParser, *, evaluates: bool = True, has_data: bool = False
) -> None:
    """The options of a run: Detectron2's, without importing it.

    Args:
        parser: gets config_file, resume, eval_only, num_gpus, num_machines, machine_rank, dist_url
            and opts.
        evaluates: whether there is `--eval-only`.
        has_data: whether there is `--data`, which may stand in place of `--config-file`.
    """
    add = parser.add_argument
    add(
        "--config-file",
        required=not has_data,
        metavar="FILE",
        help="LazyConfig .py, a run's config.yaml, or the name of a config of the package",
    )
    add("--resume", action="store_true", help="go on with the run in train.output_dir")
    if evaluates:
        add("--eval-only", action="store_true", help="evaluate train.init_checkpoint and end")
    else:
        parser.set_defaults(eval_only=False)
    add(
        "--num-gpus",
        type=_positive,
        default=1,
        metavar="N",
        help="GPUs, or processes on the CPU, of each machine",
    )
    add("--num-machines", type=_positive, default=1, metavar="N", help="machines that take part")
    add("--machine-rank", type=int, default=0, metavar="K", help="number of this machine, from 0")
    add(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="tcp://host:port of machine 0; needed with several machines",
    )
    add_offline(parser)
    add_overrides(parser)


def add_offline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--offline",
        action="store_true",
        help="fetch no weights: those named must be in the cache; HIERA_DET_OFFLINE=1 says so too",
    )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 1")
    return int(text)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="key=value",
        help="overrides of the config, behind all options",
    )
