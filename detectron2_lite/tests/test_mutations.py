"""The list of mistakes fits the code, and tests notice them."""

import subprocess
import sys
from pathlib import Path

import pytest
from mutations import MUTATIONS

HERE = Path(__file__).parent

pytestmark = pytest.mark.lite_only


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.mistake)
def test_mistake_can_be_made(mutation):
    """The old text stands once in its file, the new one compiles, and its tests exist."""
    assert mutation.new != mutation.old
    compile(mutation.source(), mutation.file, "exec")
    assert all((HERE / f"test_{name}.py").is_file() for name in mutation.tests)


@pytest.mark.slow
def test_mistakes_are_caught():
    """One file's mistakes; all of them take minutes."""
    command = [sys.executable, str(HERE / "run_mutations.py"), "--only", "modeling/sampling.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 mistakes are caught" in done.stdout
