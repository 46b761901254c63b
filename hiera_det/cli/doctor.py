"""Says what works on this machine, and what to do about what does not.

The exit status is 1 if something is broken. Nothing is changed or fetched.
"""

import argparse

EXAMPLES = """
examples:
  hiera-det doctor
  hiera-det doctor --output /data/runs    the disk that runs will be written to
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", default="output", metavar="DIR", help="folder of runs, to see its free disk"
    )


def run(args: argparse.Namespace) -> int:
    from hiera_det.report.doctor import BROKEN, run_checks, software_checks, table
    from hiera_det.report.doctor_machine import machine_checks

    lines = run_checks(software_checks() | machine_checks(args.output))
    print(table(lines))
    return int(any(line.status == BROKEN for line in lines))
