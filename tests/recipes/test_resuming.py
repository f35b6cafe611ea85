"""A run goes on where it was killed, alone in its folder, and is the same in several processes."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from pocketscribe.errors import UserError
from pocketscribe.export.open import open_model
from pocketscribe.files import read_json, write_json
from pocketscribe.models.saved import load_model
from pocketscribe.recipes.run import Run
from runs import MODEL, assert_equal, copied, run_in_two_processes, step_of
from tiny import environment, run_here


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("stage.0.audio_hours=0.07", "stage"),
        ("stage.0.optimiser.lr=0.1", "stage"),
        ("model.joiner=32", "model"),
        ("speech.train.0.count=25", "speech"),
        ('speech.units.kind="bpe"', "speech"),
    ],
)
def test_another_recipe_is_refused(tiny_run: Path, change: str, key: str) -> None:
    before = (tiny_run / "recipe.json").read_bytes()
    with pytest.raises(UserError, match=rf"holds a run with another \[{key}\]; choose another"):
        run_here(tiny_run.with_name("tiny.toml"), tiny_run, change)
    assert (tiny_run / "recipe.json").read_bytes() == before


def test_what_synthetic_voices_may_read_is_part_of_a_run(tiny_run: Path, tmp_path: Path) -> None:
    """Sentences that are scored are kept from them: another test part would let others be read."""
    scored = 'speech.test=[{ corpus = "synthetic", kind = "digits", split = "test", count = 2 }]'
    folder = copied(tiny_run, tmp_path)
    run_here(tiny_run.with_name("tiny.toml"), folder, scored)  # numbers were read, no sentences
    kept = read_json(folder / "recipe.json")
    assert kept["speech"]["test"][0]["count"] == 2, "what was scored can be listened to"
    for part, texts in (("train", "sentences.txt"), ("test", "scored.txt")):
        kept["speech"][part][0] |= {"kind": None, "texts": texts}
    write_json(folder / "recipe.json", kept)
    text = tiny_run.with_name("tiny.toml").read_text()
    reading = tmp_path / "reading.toml"
    reading.write_text(
        text.replace('kind = "digits", count = 24', 'texts = "sentences.txt", count = 24')
    )
    with pytest.raises(UserError, match=r"holds a run with another \[speech\]"):
        run_here(reading, folder)


def test_a_run_of_an_older_version_goes_on(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that recipes did not have then has its default value."""
    folder = copied(tiny_run, tmp_path)
    text = (folder / "recipe.json").read_text(encoding="utf-8")
    assert '"fastemit": 0.0' in text
    (folder / "recipe.json").write_text(text.replace('"fastemit": 0.0', '"ctc": 3.0'))
    monkeypatch.delattr(Run, "_train")
    run_here(tiny_run.with_name("tiny.toml"), folder)


def test_a_run_is_one_processs_at_a_time(tiny_run: Path) -> None:
    """A lock that is held, by whomever; it goes with the process that held it."""
    at_it = pytest.raises(UserError, match="another process is at this run; wait for it, or")
    with FileLock(tiny_run / "lock"), at_it:
        run_here(tiny_run.with_name("tiny.toml"), tiny_run)
    run_here(tiny_run.with_name("tiny.toml"), tiny_run)


KILLED = """
import os, signal
from pocketscribe import cli
from pocketscribe.training.loop import Training

def step(self, *of, real=Training._step):
    if self.progress.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *of)

Training._step = step
cli.main()
"""


def test_kill_minus_9_and_again(recipe: Path, tiny_run: Path, prepared_beside: Callable) -> None:
    """The same weights, to the bit, as the run that nobody killed."""
    folder = prepared_beside(recipe) / "run"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "run", recipe, "--out", folder],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / MODEL).exists(), "it was to be killed while it trained"
    assert step_of(folder / "float" / "checkpoint" / "state.json") == 5
    meanwhile = open_model(folder / "float" / "checkpoint")  # can be listened to
    assert meanwhile.parameters_stored == open_model(tiny_run).parameters_stored
    meanwhile.transcribe([np.zeros(16000, np.float32)], streaming=True)
    run_here(recipe, folder)
    assert_equal(load_file(folder / MODEL), load_file(tiny_run / MODEL))


def test_two_processes_learn_what_one_learns(recipe: Path, tiny_run: Path) -> None:
    """By torchrun, from nothing: process 0 prepares, writes and scores, the other one waits."""
    folder = recipe.parent / "run"
    done = run_in_two_processes(recipe, folder)
    assert done.stdout.count("WER [95% CI]") == 1, "one table, not one a process"
    names = {p.name for p in folder.iterdir()} | {p.name for p in (folder / "float").iterdir()}
    assert not [name for name in names if name.startswith(".")]
    parts = [p.name for p in (recipe.parent / "prepared").glob("[!.]*")]
    assert len(parts) == 2 and all(name.startswith("synthetic-") for name in parts)

    one, two = load_file(tiny_run / MODEL), load_file(folder / MODEL)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)
    stages = [load_model(f / MODEL).card["stages"][0] for f in (tiny_run, folder)]
    for key in ("steps", "audio_hours_heard", "trained_on"):
        assert stages[0][key] == stages[1][key]
