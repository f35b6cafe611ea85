"""A few steps of every librispeech recipe, at full size: python benchmarks/librispeech_steps.py

The corpus is made here: noise of LibriSpeech's lengths, words of its density, in its folders. Each
stage goes through `Run`, as `pocketscribe run` does, in a process of its own (or in several, by
torchrun), on batches of --seconds of audio instead of the recipe's; librispeech/float, which others
start from, is always first. Told are the time of a step, the median of all but the first; memory,
at the peak of one process; multiplications and additions a second of audio, forwards and backwards;
and what these come to on a GPU for the recipe's hours, if it multiplies at UTILISED of what its
maker says of bf16.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import soundfile
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

import pocketscribe.recipes.run as recipes_run
from pocketscribe.recipes.reading import read_recipe
from pocketscribe.recipes.run import Run
from pocketscribe.training.loop import Training

STAGES = (
    "librispeech/float",
    "shared_lowrank_librispeech/float",
    "usm_lite_librispeech/float_tuned",
    "usm_lite_librispeech/int4_2of4",
    "progressive_librispeech/two_thirds",
    "progressive_librispeech/half",
    "progressive_librispeech/third",
    "todm_librispeech/supernet",
    "fit_librispeech/supernet",
    "fit_librispeech/student",
    "fit_librispeech/low_bits",
)
TRAIN = ("train-clean-100", "train-clean-360", "train-other-500")
SPLITS = (*TRAIN, "dev-clean", "dev-other", "test-clean", "test-other")
GPUS = {"A100": 312e12, "H100": 989e12}  # bf16, dense, as its maker says
UTILISED = 0.3
WORDS_A_SECOND = 2.7


def main(
    stages: Annotated[str, typer.Option()] = ",".join(STAGES),
    seconds: float = 100,
    steps: int = 3,
    processes: int = 1,
    width: int = 0,
    only: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    if only:
        one(*only.split(","), seconds=seconds, steps=steps, width=width)
        return
    columns = (
        "parameters",
        "a step, s",
        "memory, GiB",
        "GFLOP a second of audio",
        "hours of audio",
        "hours here",
    )
    table = Table("stage", *columns, *(f"hours on an {gpu}" for gpu in GPUS))
    with TemporaryDirectory() as folder:
        librispeech(Path(folder) / "librispeech", utterances=max(2, int(seconds / 4)))
        for stage in dict.fromkeys((STAGES[0], *stages.split(","))):
            asked = [f"--seconds={seconds}", f"--steps={steps}", f"--width={width}"]
            torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
            several = torchrun if processes > 1 else []
            command = [sys.executable, *several, __file__, *asked, f"--only={folder},{stage}"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            row = json.loads((Path(folder) / "measured.json").read_text())
            print(f"{stage}: {row}", file=sys.stderr, flush=True)
            hours = row["hours"]
            flop = 3600 * hours * row["flop"]
            table.add_row(
                stage,
                f"{row['parameters'] / 1e6:.1f}M",
                f"{row['step']:.2f}",
                f"{row['memory']:.1f}",
                f"{row['flop'] / 1e9:.1f}",
                f"{hours:,.0f}",
                f"{hours / seconds * row['step']:,.1f}",
                *(f"{flop / rate / UTILISED / 3600:,.1f}" for rate in GPUS.values()),
            )
    Console(width=160).print(table)


def one(folder: str, stage: str, *, seconds: float, steps: int, width: int) -> None:
    """Runs one stage and writes down what it took."""
    recipe, name = stage.split("/")
    root = Path(folder)
    asked = next(s for s in read_recipe(recipe, (), root / "runs").stage if s.name == name)
    seen: dict[str, Any] = {"times": []}

    class Watched(Training):
        def _step(self, *args: Any) -> dict[str, float] | None:
            before, start = self.progress.audio_seconds, time.perf_counter()
            if self.progress.step == 0:  # counting takes time: this step is not timed
                with FlopCounterMode(display=False) as counter:
                    losses = super()._step(*args)
                processes = self.fabric.world_size
                audio = self.progress.audio_seconds - before
                seen["flop"] = counter.get_total_flops() * processes / audio
            else:
                losses = super()._step(*args)
                seen["times"].append(time.perf_counter() - start)
            parameters = self.model.named_parameters()
            seen["parameters"] = sum(p.numel() for n, p in parameters if "auxiliary" not in n)
            return losses

    recipes_run.Training = Watched  # type: ignore[misc]
    changes = _small(recipe, seconds, steps)
    if width:
        changes.append(f"model.encoder.width={width}")
    run = Run(read_recipe(recipe, changes, root / "runs"), root / "runs" / recipe, root, Console())
    run.train([name])
    if run.fabric.is_global_zero:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if torch.cuda.is_available():
            memory = torch.cuda.max_memory_allocated() / 2**30
        kept = {k: seen[k] for k in ("flop", "parameters")}
        row = {**kept, "memory": memory, "step": statistics.median(seen["times"])}
        (root / "measured.json").write_text(json.dumps({**row, "hours": asked.audio_hours}))


def _small(recipe: str, seconds: float, steps: int) -> list[str]:
    """Changes that make every stage of a recipe so many steps long."""
    said = {
        "audio_hours": (steps - 0.5) * seconds / 3600,
        "batch_seconds": seconds,
        "validations": 0,
        "precision": "bf16",
        "augment.grows": [9.0, 9.0],
    }
    found = []
    for i, stage in enumerate(read_recipe(recipe).stage):
        if stage.audio_hours:
            found += [f"stage.{i}.{k}={v}" for k, v in said.items()]
        if stage.search is not None:  # the ends of the space in each format
            found += [f"stage.{i}.search.candidates=8", f"stage.{i}.search.utterances=2"]
    return [change.replace("'", '"') for change in found]


def librispeech(root: Path, utterances: int) -> None:
    """A folder like LibriSpeech's: most of 11 to 16 s, words out of 400 made-up ones."""
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "BDFGKLMNPRSTVW" for b in "AEIOU"]
    words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(400)]
    for split in SPLITS:
        folder = root / split / "1" / "2"
        folder.mkdir(parents=True)
        lines = []
        for number in range(utterances if split in TRAIN else 2):
            seconds = rng.choice([rng.uniform(2, 11), rng.uniform(11, 16.5)], p=[0.3, 0.7])
            said = rng.choice(words, max(1, round(WORDS_A_SECOND * seconds)))
            noise = 0.1 * rng.standard_normal(int(16000 * seconds)).clip(-5, 5)
            soundfile.write(folder / f"1-2-{number:04d}.flac", noise, 16000)
            lines.append(f"1-2-{number:04d} {' '.join(said)}\n")
        (folder / "1-2.trans.txt").write_text("".join(lines))


if __name__ == "__main__":
    typer.run(main)
