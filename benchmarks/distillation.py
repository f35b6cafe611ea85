"""What a teacher costs: python benchmarks/distillation.py

First the losses: memory and time of forward and backward with each choice of lattice nodes, beside
the pruned loss alone. Encoders are tiny, so that the lattice is what is measured; each row in a
process of its own. Then a whole step of a student a third of its teacher's size: plain, distilled,
and with the teacher's answers kept on disk, taken in turns; numbers are medians.

B utterances, T encoder frames, U labels, V text units.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer

from pocketscribe.evaluation.evaluate import peak_rss_bytes
from pocketscribe.models import MELS, Chunking, ConformerConfig, ModelConfig, Recogniser
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.batches import Batch
from pocketscribe.training.distilled import Distilled
from pocketscribe.training.kept import Kept
from pocketscribe.training.objectives import LossConfig, Objective, Plain, StepContext
from pocketscribe.training.optimisers import OptimiserConfig, build_optimiser
from pocketscribe.training.teacher import DistilConfig, Teacher

MIB = 2**20
ROUNDS = 5
CONTEXT = StepContext(step=10_000, chunking=Chunking(16, 64))  # past the pruned loss's warm-up
LOSS = LossConfig(ctc=0.0)
FORMS: dict[str, dict[str, Any] | None] = {
    "pruned loss alone": None,
    "student's windows": {"nodes": "student"},
    "the same, by occupancy": {"nodes": "student", "occupancy": True},
    "the same, all classes": {"nodes": "student", "classes": "full"},
    "teacher's windows": {"nodes": "teacher"},
    "both": {"nodes": "union"},
    "best path": {"nodes": "path"},
    "all nodes": {"nodes": "all"},
    "all nodes, all classes": {"nodes": "all", "classes": "full"},
}


def random_batch(batch: int, frames: int, labels: int, units: int) -> Batch:
    lengths = torch.full((batch,), frames * FACTOR)
    return Batch(
        features=torch.randn(batch, frames * FACTOR, MELS),
        frames=lengths,
        targets=torch.randint(3, units, (batch, labels)),
        labels=torch.full((batch,), labels),
        seconds=float(lengths.sum()) / 100,
        total_frames=int(lengths.sum()),
        ids=tuple(map(str, range(batch))),
    )


def tiny(units: int) -> Recogniser:
    encoder = ConformerConfig(width=16, layers=1, heads=1)
    config = ModelConfig(encoder=encoder, predictor=32, joiner=32, subsampling=16)
    return Recogniser(config, units)


def cost(form: dict[str, Any] | None, sizes: tuple[int, int, int, int]) -> tuple[int, float]:
    """Bytes by which the process grew over the first step, and seconds of the best of three."""
    torch.manual_seed(0)
    batch = random_batch(*sizes)
    objective: Objective = Plain(tiny(sizes[3]), LOSS)
    if form is not None:
        teacher = Teacher(tiny(sizes[3]), DistilConfig(ctc=0.0, **form))
        objective = Distilled(objective, teacher)

    def step() -> float:
        started = time.perf_counter()
        objective(batch, CONTEXT)["loss"].backward()
        return time.perf_counter() - started

    before = peak_rss_bytes()
    first = step()
    grown = (peak_rss_bytes() or 0) - (before or 0)
    return grown, min(first, step(), step())


def compare_losses(*sizes: int) -> None:
    print("losses, forward + backward, B{} T{} U{} V{}, float32".format(*sizes))
    plain = None
    for name, form in FORMS.items():
        # Not "spawn": its processes start with the peak of the one that starts them.
        with multiprocessing.get_context("forkserver").Pool(1) as process:
            grown, taken = process.apply(cost, (form, sizes))
        plain = plain or (grown, taken)
        ratios = f"{grown / max(plain[0], 1):5.2f} x   {taken / plain[1]:5.2f} x the time"
        print(f"  {name:24} {grown / MIB:8.1f} MiB {ratios}")


def compare_steps(width: int, layers: int, utterances: int, frames: int) -> None:
    torch.manual_seed(0)
    units = 30
    encoder = ConformerConfig(width=width, layers=layers)
    teacher = Recogniser(ModelConfig(encoder=encoder), units)
    smaller = ConformerConfig(width=max(width * 3 // 5 // 8 * 8, 8), layers=layers)
    student = Recogniser(ModelConfig(encoder=smaller, predictor=160, joiner=160), units).train()
    batch = random_batch(utterances, frames, frames // 2, units)
    asked = DistilConfig(nodes="teacher", keep=True)
    with tempfile.TemporaryDirectory() as folder:
        plain = Plain(student, LossConfig())
        heard = Teacher(teacher, DistilConfig())
        kept = Kept(Teacher(teacher, asked), Path(folder) / "kept.sqlite", {})
        objectives: dict[str, Objective] = {
            "plain": plain,
            "distilled": Distilled(plain, heard),
            "distilled, on the teacher's windows": Distilled(plain, Teacher(teacher, asked)),
            "distilled, answers kept": Distilled(plain, kept),
        }
        rows: dict[str, Callable[[], None]] = {
            "teacher's encoder alone": lambda: _encode(teacher, batch),
            **{name: _stepper(objective, batch) for name, objective in objectives.items()},
        }
        times: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(ROUNDS):
            for name, run in rows.items():
                started = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - started)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    print(
        f"a step, teacher {width} x {layers}, student {smaller.width} x {layers}, "
        f"{utterances} utterances of {frames} frames, {torch.get_num_threads()} threads"
    )
    basis = statistics.median(times["plain"])
    for name, taken in times.items():
        found = statistics.median(taken)
        print(f"  {name:36} {1000 * found:8.1f} ms   {found / basis:5.2f} x")
    seconds = utterances * frames / 25
    print(f"  kept answers: {size / seconds / 1000:.1f} kB a second of audio")


@torch.no_grad()
def _encode(model: Recogniser, batch: Batch) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        model.encode(batch.features, batch.frames, CONTEXT.chunking)


def _stepper(objective: Objective, batch: Batch) -> Callable[[], None]:
    optimiser = build_optimiser(OptimiserConfig(), objective.named_parameters())

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective(batch, CONTEXT)["loss"] / batch.total_frames
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def main(
    losses: tuple[int, int, int, int] = (16, 400, 80, 512),
    width: int = 176,
    layers: int = 6,
    utterances: int = 8,
    frames: int = 140,
) -> None:
    """`losses` takes B, T, U and V; the others are the teacher's and the batch's sizes."""
    compare_losses(*losses)
    compare_steps(width, layers, utterances, frames)


if __name__ == "__main__":
    typer.run(main)
