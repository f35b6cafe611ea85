"""What a supernet's step costs, by part: OMP_NUM_THREADS=1 python benchmarks/supernet.py

The stage of a recipe that trains a supernet, on one batch of noise: its passes, each forward and
backward, the optimiser, and beside them a step of the largest network alone, in turns; numbers are
medians. Then the memory of two steps, each kind in a process of its own, in which oneDNN keeps no
kernels: it compiles some for each new shape, and holds a thousand of them whatever is trained.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable

import torch
import typer
from distillation import random_batch

from pocketscribe.evaluation.evaluate import peak_rss_bytes
from pocketscribe.models import LETTERS, Recogniser
from pocketscribe.models.recogniser import stored_parameters
from pocketscribe.recipes.reading import RUNS, Outside, read_recipe
from pocketscribe.speech.batches import Batch
from pocketscribe.training.objectives import Objective, Plain, StepContext
from pocketscribe.training.optimisers import build_optimiser
from pocketscribe.training.supernet import Sandwich

MIB = 2**20
ROUNDS = 15


class Bench:
    """The supernet of a recipe's stage, or its largest network alone, and one batch for it."""

    def __init__(self, recipe: str, stage: str, frames: int, *, alone: bool) -> None:
        torch.manual_seed(0)
        found = read_recipe(recipe)
        self.stage = next(s for s in found.stage if s.name == stage)
        assert self.stage.supernet is not None, f"stage {stage!r} trains no supernet"
        config = found.model_of(stage, Outside(RUNS).config)
        self.model = Recogniser(config, LETTERS).train()
        self.sandwich = Sandwich(self.model, self.stage.loss, self.stage.supernet)
        self.objective: Objective = self.sandwich
        if alone:
            self.objective = Plain(self.model, self.stage.loss)
        self.optimiser = build_optimiser(self.stage.optimiser, self.objective.named_parameters())
        self.batch = self.speech(max(1, round(self.stage.batch_seconds * 25 / frames)), frames)

    def speech(self, utterances: int, frames: int) -> Batch:
        """Noise, and a letter every 120 ms."""
        return random_batch(utterances, frames, max(1, frames // 3), LETTERS)

    def run(self, number: int, part: int) -> None:
        """One pass of one step past the losses' warm-up."""
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.objective(self.batch, self.context(number, part))["loss"]
        (loss / self.batch.total_frames).backward()

    def parameters(self, number: int, part: int) -> int:
        """How many took part in that pass of the supernet."""
        sizes = self.sandwich.chosen(self.context(number, part))
        config = self.sandwich.space.sub_config(sizes)
        with torch.device("meta"):
            return stored_parameters(Recogniser(config, LETTERS))

    def context(self, number: int, part: int) -> StepContext:
        step = self.stage.loss.warmup_steps + number
        return StepContext(step, self.model.config.chunks.streaming, part)

    def step(self, number: int) -> None:
        for part in range(self.objective.passes):
            self.run(number, part)
        self.update()

    def update(self) -> None:
        self.optimiser.step()
        self.optimiser.zero_grad()


def grown(recipe: str, stage: str, frames: int, alone: bool) -> int:
    """Bytes by which a process grows over the first two steps that are not tiny."""
    bench = Bench(recipe, stage, frames, alone=alone)
    whole, bench.batch = bench.batch, bench.speech(1, 5)
    bench.step(0)  # what is loaded with the first step is not the step's
    before, bench.batch = peak_rss_bytes() or 0, whole
    for number in range(2):
        bench.step(number)
    return (peak_rss_bytes() or 0) - before


def main(recipe: str = "todm", stage: str = "supernet", frames: int = 75) -> None:
    """`frames` of 40 ms each are an utterance."""
    bench, alone = (Bench(recipe, stage, frames, alone=alone) for alone in (False, True))
    times: dict[str, list[float]] = {}
    sizes: dict[str, list[int]] = {}

    def timed(name: str, run: Callable[[], None]) -> None:
        started = time.perf_counter()
        run()
        times.setdefault(name, []).append(time.perf_counter() - started)

    passes = bench.objective.passes
    for number in range(1 + ROUNDS):
        for part in range(passes):
            name = ("the largest", "the smallest")[part] if part < 2 else "a random one"
            timed(name, lambda number=number, part=part: bench.run(number, part))
            sizes.setdefault(name, []).append(bench.parameters(number, part))
        timed("the optimiser", bench.update)
        timed("the largest alone", lambda number=number: alone.run(number, 0))
        timed("its optimiser", alone.update)
        if not number:  # the first round warms up
            times.clear()
            sizes.clear()
    print(
        f"{recipe}/{stage}: {bench.batch.seconds:.0f} s of speech a step, "
        f"{torch.get_num_threads()} threads"
    )
    medians = {name: 1000 * statistics.median(found) for name, found in times.items()}
    whole = medians["the largest"] + medians["the smallest"] + medians["the optimiser"]
    whole += (passes - 2) * medians.get("a random one", 0.0)
    plain = medians["the largest alone"] + medians["its optimiser"]
    for name, ms in medians.items():
        parameters = ""
        if name in sizes:
            parameters = f"{statistics.mean(sizes[name]) / 1e6:6.2f}M parameters"
        print(f"  {name:20} {ms:8.1f} ms   {ms / plain:5.2f} x {parameters}")
    print(f"  {'a step, ' + str(passes) + ' passes':20} {whole:8.1f} ms   {whole / plain:5.2f} x")
    os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "0"
    for name, single in (("supernet", False), ("largest alone", True)):
        # Not "spawn": its processes start with the peak of the one that starts them.
        with multiprocessing.get_context("forkserver").Pool(1) as process:
            size = process.apply(grown, (recipe, stage, frames, single))
        print(f"  memory of a step, {name:14} {size / MIB:7.1f} MiB")


if __name__ == "__main__":
    typer.run(main)
