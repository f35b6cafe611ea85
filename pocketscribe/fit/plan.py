"""What to train for how long, to fit a budget: every choice a line of the recipe, with its reason.

The numbers are rules of thumb from what was measured while this project was made (docs/training.md,
docs/todm.md); each can be fixed by `--set`, for a plan is nothing but changes to recipes/fit.toml.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from pocketscribe.config import read_bytes
from pocketscribe.errors import UserError
from pocketscribe.fit.look import Look
from pocketscribe.models import ModelConfig, Recogniser
from pocketscribe.models.saved import load_model
from pocketscribe.models.subnets import Space, SpaceConfig
from pocketscribe.recipes.recipe import Recipe
from pocketscribe.search.cost import FileBytes
from pocketscribe.speech.batches import Batch
from pocketscribe.speech.features import MELS
from pocketscribe.speech.units import Units
from pocketscribe.training.loop import measured_precision
from pocketscribe.training.objectives import LossConfig, Plain, StepContext

LITTLE_HOURS = 100.0  # of speech: below it a trained model is a better start than none
HEARD_PER_HOUR, LEAST_HEARD, MOST_HEARD = 8.0, 6.0, 400.0  # hours, of which each stage has a share
# Of those, what each stage hears.
SHARES = {
    "start": 0.3,
    "tuned": 0.7,
    "supernet": 0.6,
    "halfway": 0.3,
    "student": 0.5,
    "low_bits": 0.4,
}
HEADS = 0.2  # the share of a start that trains no more than heads
# Of the time of a plain step of the largest model: the supernet's passes, a teacher and a smaller
# student, the same with formats.
COSTS = {
    "start": 1.0,
    "tuned": 1.0,
    "supernet": 2.6,
    "halfway": 1.3,
    "student": 1.1,
    "low_bits": 1.5,
}
STAGES = ("start", "tuned", "supernet", "search", "halfway", "student", "low_bits")
HEADER_BYTES = 8_000  # of a file: its config, plan and card, which grows from stage to stage
FEW_WORDS = 300  # of dev: fewer cannot tell one candidate from another
NOISE_SECONDS = 24.0  # of the batch on which speed is measured
TELLING_WORDS = 1_000  # of test: fewer, and an interval is wide


class Choice(NamedTuple):
    """A change to the recipe, and why."""

    key: str
    value: str
    reason: str

    @property
    def change(self) -> str:
        return f"{self.key}={self.value}"


@dataclass
class Plan:
    """What will be done.

    Attributes:
        minutes: that training is expected to take on this machine.
        words: what this much speech can and cannot give.
    """

    choices: list[Choice]
    minutes: float
    words: list[str]

    @property
    def changes(self) -> list[str]:
        return [choice.change for choice in self.choices]


def plan(
    seen: Look, budget: str, minutes: float | None, start: Path | None, recipe: Recipe
) -> Plan:
    """The plan for a folder; `recipe` is what the plan will change.

    Raises:
        UserError: the budget is below the smallest sub-network, which the line names.
    """
    choices: list[Choice] = []
    folder = json.dumps(str(seen.folder))
    choices.append(Choice("speech.train.0.corpus", folder, "the folder"))
    dev_words = sum(seen.parts["dev"].words.values()) if "dev" in seen.parts else 0
    if dev_words < FEW_WORDS:
        train = f"[{{ corpus = {folder} }}]"
        reason = f"{dev_words} words of dev tell no sizes apart: they are chosen on training speech"
        choices.append(Choice("speech.dev", train, reason))
    else:
        choices.append(Choice("speech.dev.0.corpus", folder, "the folder"))
    if "test" in seen.parts:
        choices.append(Choice("speech.test.0.corpus", folder, "the folder"))
    else:
        choices.append(Choice("speech.test", "[]", "too few recordings to set some aside"))

    config = recipe.model
    started, reason = _start(seen, start)
    shares = dict(SHARES)
    if started is not None:
        config, shares["start"] = started, HEADS
        choices.append(Choice("stage.0.from", json.dumps(str(start)), reason))
        why = "it comes without the heads that training needs; they learn first, alone"
        choices.append(Choice("stage.0.heads_only", "true", why))
        why = "the whole of it from the first step: it knows how to listen"
        choices.append(Choice("stage.1.augment.grows", "[9.0, 9.0]", why))
    space, sizes = _space(config)
    choices.append(Choice("stage.2.supernet", sizes, "halves to wholes of every width"))
    limit = read_bytes(budget, "--budget") - HEADER_BYTES
    choices += _budgets(space, recipe, limit, budget)

    speed = measured_speed(config)
    cost = sum(share * COSTS[stage] for stage, share in shares.items())
    if minutes is None:
        heard = min(max(HEARD_PER_HOUR * seen.train.hours, LEAST_HEARD), MOST_HEARD)
        why = (
            f"{HEARD_PER_HOUR:g} hours for each of {seen.train.hours:.2f}, at least {LEAST_HEARD:g}"
        )
    else:
        heard = minutes / 60 * speed / cost
        why = f"{minutes:g} minutes at {speed:.0f} x real time"
    for stage, share in shares.items():
        key = f"stage.{STAGES.index(stage)}.audio_hours"
        choices.append(Choice(key, f"{heard * share:.5f}", why))
    taken = 60 * heard * cost / speed
    return Plan(choices, taken, list(_words(seen, started is not None)))


def _start(seen: Look, start: Path | None) -> tuple[ModelConfig | None, str]:
    """The config of the trained model to start from, if one should be; and why, or why not."""
    if start is None:
        return None, "no trained model to start from"
    if seen.train.hours >= LITTLE_HOURS:
        return None, f"{seen.train.hours:.0f} hours are enough to start from nothing"
    saved = load_model(start)
    units = Units.from_json(saved.units, str(start))
    unknown = sorted(seen.letters - {c for c in seen.letters if units.can_spell(c)})
    if unknown:
        return None, f"{start.name} cannot spell {' '.join(unknown)}"
    hours = sum(s.get("audio_hours_heard", 0) for s in saved.card.get("stages", ()))
    reason = f"{seen.train.hours:.2f} h are little; it has heard {hours:.0f} h and spells all of it"
    return saved.model.config, reason


def _space(config: ModelConfig) -> tuple[Space, str]:
    """Halves to wholes of every dimension, in multiples that N:M groups and kernels like."""
    encoder = config.encoder

    def parts(whole: int, *shares: float) -> tuple[int, ...]:
        return tuple(sorted({max(8, 8 * round(share * whole / 8)) for share in shares} - {whole}))

    sizes = SpaceConfig(
        layers=tuple(sorted({max(1, 2 * encoder.layers // 3)} - {encoder.layers})),
        width=parts(encoder.width, 0.5, 0.7, 0.85),
        heads=tuple(range((encoder.heads + 1) // 2, encoder.heads)),
        inner=parts(max(encoder.insides), 0.5, 0.7),
        predictor=parts(config.predictor, 0.5, 0.75),
        joiner=parts(config.joiner, 0.5, 0.75),
    )
    rows = sizes.model_dump(exclude_defaults=True)
    table = ", ".join(f"{key} = {list(value)}" for key, value in rows.items() if value)
    with torch.device("meta"):
        return Space(Recogniser(config, vocabulary=30), sizes), f"{{ {table}, random = 1 }}"


def _budgets(space: Space, recipe: Recipe, limit: int, budget: str) -> list[Choice]:
    """What may be searched and taken; UserError where nothing is that small."""
    searching = recipe.stage[STAGES.index("search")].search
    assert searching is not None
    size = FileBytes(space, vocabulary=30)
    least = min(size(space.smallest, formats.rules) for formats in searching.formats)
    if least > limit:
        raise UserError(
            f"--budget {budget}: the smallest sub-network takes {least + HEADER_BYTES:,} bytes; "
            "give more, or a smaller --set model"
        )
    above = limit * 3 // 2
    text = '"{}"'.format
    return [
        Choice("stage.3.search.budget", text(above), "half as much again: the way there"),
        Choice("stage.4.take.budget", text(above), "the step between supernet and budget"),
        Choice("stage.5.take.budget", text(limit), f"{budget} less {HEADER_BYTES:,} for a header"),
        Choice("stage.6.take.budget", text(limit), "the same"),
    ]


def _words(seen: Look, started: bool) -> Sequence[str]:
    """What this much speech can and cannot give, for people."""
    hours, test = seen.train.hours, seen.parts.get("test")
    words = sum(test.words.values()) if test else 0
    found = []
    if hours < 0.5:
        found.append(
            f"{60 * hours:.1f} minutes of speech can tune a trained recogniser to a voice, a room "
            "and some words; they cannot teach it what it has never heard. "
            + ("" if started else "Without a trained model to start from, expect little. ")
            + "Half an hour is a start, ten hours are better."
        )
    elif hours < 10 and not started:
        found.append(f"{hours:.1f} hours from nothing make a weak recogniser; ten are a start.")
    if words < TELLING_WORDS:
        found.append(
            f"{words} words of test tell little: what is scored on them is no promise "
            f"(a thousand words narrow a rate to some points)."
        )
    return found


def measured_speed(config: ModelConfig) -> float:
    """Seconds of audio a second that a plain training step of such a model takes here, on noise."""
    model, frames = Recogniser(config, vocabulary=30), round(100 * NOISE_SECONDS / 4)
    batch = Batch(
        features=torch.randn(4, frames, MELS),
        frames=torch.full((4,), frames),
        targets=torch.randint(2, 30, (4, frames // 10)),
        labels=torch.full((4,), frames // 10),
        seconds=NOISE_SECONDS,
        total_frames=4 * frames,
    )
    objective = Plain(model, LossConfig())
    context = StepContext(10**6, config.chunks.streaming)
    precision = measured_precision(config.encoder.width, NOISE_SECONDS, "cpu")["precision"]
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = objective(batch, context)["loss"]
        loss.backward()
        taken.append(time.perf_counter() - started)
    return NOISE_SECONDS / min(taken)
