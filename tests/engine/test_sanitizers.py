"""`make fuzz` in its short form: the engine under AddressSanitizer and UBSan."""

import os
import subprocess
from pathlib import Path

import pytest

from kernels import COMPILER

FUZZ = Path(__file__).parents[2] / "engine" / "fuzz"
SECONDS = 5


@pytest.mark.skipif(COMPILER is None, reason="no g++ or clang++ here")
def test_altered_files_do_no_harm(tmp_path: Path) -> None:
    """Beyond the digest, which is left unchecked: what is not refused is listened with."""
    done = subprocess.run(
        ["sh", FUZZ / "run.sh", str(SECONDS)],
        env={**os.environ, "OUT": str(tmp_path), "CXX": str(COMPILER), "OPTIMISE": "-O0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[0]) >= 20, done.stdout
