"""A run so small that tests can afford it, and ways to start it."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from pocketscribe.recipes.reading import read_recipe
from pocketscribe.recipes.run import Run

# A run of seconds that does all that a run does: 25 steps of a few utterances, no dropout.
TINY_RECIPE = """
[speech]
train = [{ corpus = "synthetic", kind = "digits", count = 24 }]
dev = [{ corpus = "synthetic", kind = "digits", split = "dev", count = 3 }]
test = [{ corpus = "synthetic", kind = "digits", split = "test", count = 3 }]
units = { kind = "char" }

[model]
encoder = { width = 16, layers = 1, heads = 2, kernel = 4, dropout = 0 }
chunks = { sizes = [4, "full"], left = 8 }
predictor = 16
joiner = 16
subsampling = 8

[[stage]]
name = "float"
audio_hours = 0.06
batch_seconds = 10
validations = 2
checkpoint_minutes = 0
optimiser = { warmup_steps = 5 }
"""


def run_here(
    recipe: Path, folder: Path, *changes: str, stages: Sequence[str] = ()
) -> dict[str, Any]:
    """`pocketscribe run`, in this process and so with one thread, to the same bits."""
    read = read_recipe(str(recipe), changes, folder.parent)
    return Run(read, folder, None, Console(quiet=True)).go(stages)


def command(*arguments: str | Path) -> list[str]:
    """`python -m …`, for `subprocess`."""
    return [sys.executable, "-m", *map(str, arguments)]


def environment() -> dict[str, str]:
    """One thread, as in `run_here`, and this very package."""
    root = str(Path(__file__).parents[1])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
