"""Make each mistake of ``mutations.py`` in a copy of detectron2_lite, and see which test notices.

Example: python detectron2_lite/tests/run_mutations.py --jobs 2 --only "NMS"
Exits with 1 if a mistake survives, and with 2 if the tests fail without one.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutations import MUTATIONS, PACKAGE, Mutation

TESTS = Path(__file__).parent


def run_tests(names: list[str], mutation: Mutation | None) -> tuple[int, str]:
    """Run ``test_<name>.py`` on a copy of the package: exit status and output of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PACKAGE.name
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mutation is not None:
            (copy / mutation.file).write_text(mutation.source())
        # Started in the folder, so that its copy comes before any other Detectron2.
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "-rf", "-p", "no:cacheprovider"]
            + ["-m", "not slow", *(str(TESTS / f"test_{name}.py") for name in names)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    return done.returncode, done.stdout + done.stderr


def outcome(mutation: Mutation) -> tuple[str, str]:
    """("caught", name of the test), ("survived", ""), or ("broken", how pytest ended)."""
    status, output = run_tests(mutation.tests, mutation)
    if status == 0:
        return "survived", ""
    failed = re.search(r"^FAILED .*?(test_\w+\.py::\S+)", output, re.MULTILINE)
    if status != 1 or failed is None:
        return "broken", f"pytest ended with {status}: {output.strip().splitlines()[-1]}"
    return "caught", failed[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="mistakes or files with this")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    args = parser.parse_args()
    chosen = [m for m in MUTATIONS if args.only in m.mistake or args.only in m.file]
    if not chosen:
        parser.error(f"--only {args.only}: no mistake and no file has this in its name")
    names = sorted({name for mutation in chosen for name in mutation.tests})
    status, output = run_tests(names, None)
    if status != 0:
        print(output)
        print("The tests fail without a mistake.")
        return 2
    results = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for mutation, result in zip(chosen, pool.map(outcome, chosen), strict=True):
            results.append(result[0])
            print(f"{result[0]:<9} {mutation.file}: {mutation.mistake}  {result[1]}", flush=True)
    print(f"{results.count('caught')} of {len(results)} mistakes are caught")
    return 0 if results.count("caught") == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
