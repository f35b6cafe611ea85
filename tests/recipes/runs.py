"""What tests of runs have in common."""

import subprocess
from pathlib import Path

import torch
from torch import Tensor

from pocketscribe.errors import UserError
from pocketscribe.files import read_json
from tiny import command, environment

MODEL = Path("float") / "model.safetensors"
TWO_STAGES = """
[speech]
train = [{ corpus = "fsdd" }, { corpus = "speechocean762", weight = 2 }]
test = [{ corpus = "fsdd", split = "test" }]

[[stage]]
name = "first"
audio_hours = 2
train = [{ corpus = "synthetic" }, { corpus = "fsdd", weight = 3 }]

[[stage]]
name = "second"
from = "first"
audio_hours = 1
"""


def run_in_two_processes(recipe: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """By torchrun, to its end."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(
        command(*launch, "pocketscribe", "run", recipe, "--out", folder),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def step_of(state: Path) -> int:
    """The last checkpoint's step; 0 before there is one."""
    try:
        return read_json(state)["progress"]["step"]
    except UserError:
        return 0


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def copied(run: Path, to: Path) -> Path:
    """A copy of a run that another test may change."""
    folder = to / "run"
    folder.mkdir()
    for path in run.rglob("*"):
        target = folder / path.relative_to(run)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    return folder
