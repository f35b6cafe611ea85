"""What to train for how long, to fit a budget: every choice a line of the recipe, with its reason.

The numbers are rules of thumb from what was measured while this project was made (docs/training.md,
docs/todm.md); each can be fixed by `--set`, for a plan is nothing but changes to recipes/fit.toml
or, where training is short, to recipes/fit_direct.toml.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pocketscribe.config import read_bytes
from pocketscribe.errors import UserError
from pocketscribe.export.size import size_of_model
from pocketscribe.fit.look import Look
from pocketscribe.models import ModelConfig, Recogniser
from pocketscribe.models.saved import Saved, load_model
from pocketscribe.models.subnets import Space, SpaceConfig
from pocketscribe.recipes.reading import read_recipe
from pocketscribe.recipes.recipe import Recipe, merged
from pocketscribe.search.cost import FileBytes
from pocketscribe.speech.batches import Batch
from pocketscribe.speech.features import MELS
from pocketscribe.speech.units import Units
from pocketscribe.training.loop import measured_precision
from pocketscribe.training.objectives import LossConfig, Plain, StepContext

LETTERS = 30  # units: A to Z, apostrophe, word mark, blank, unknown
LITTLE_HOURS = 100.0  # of speech: below it a trained model is a better start than none
HEARD_PER_HOUR, LEAST_HEARD, MOST_HEARD = 8.0, 6.0, 400.0  # hours, of which each stage has a share
LEAST_SUPERNET = 20.0  # hours that a supernet hears: below them its small sizes stay far behind
HEADER_BYTES = 9_000  # of a file: its config, plan and card of these stages
FEW_WORDS = 300  # of dev: fewer cannot tell one candidate from another
REACHED = 0.55  # of the speed on noise: real batches are loaded and padded, and dev is scored
NOISE_SECONDS = 24.0  # of the batch on which speed is measured
TELLING_WORDS = 1_000  # of test: fewer, and an interval is wide


class Effort(NamedTuple):
    """Of a stage.

    Attributes:
        share: of the hours heard in all: what it hears.
        cost: of its steps, in those of a plain step of the largest model.
    """

    share: float
    cost: float


HEADS = Effort(0.2, 1.0)  # of a start that is trained already: it gets the heads that it lacks


class Way(NamedTuple):
    """A recipe to fill in, and the efforts of its stages."""

    recipe: str
    stages: dict[str, Effort]

    def key(self, stage: str, key: str) -> str:
        """`--set`'s key of a stage's setting."""
        return f"stage.{list(self.stages).index(stage)}.{key}"

    def of_trained(self) -> "Way":
        """The same, where the start is trained already."""
        return self._replace(stages=self.stages | {"start": HEADS})

    @property
    def cost(self) -> float:
        """Hours of plain steps for each hour heard."""
        return sum(effort.share * effort.cost for effort in self.stages.values())


SUPERNET = Way(
    "fit",
    {
        "start": Effort(0.3, 1.0),
        "tuned": Effort(0.7, 1.0),
        "supernet": Effort(0.6, 2.6),  # several passes
        "search": Effort(0.0, 0.0),
        "halfway": Effort(0.3, 1.3),  # a teacher, and a smaller student
        "student": Effort(0.5, 1.1),
        "low_bits": Effort(0.4, 1.5),  # the same through formats
    },
)
DIRECT = Way(
    "fit_direct",
    {
        "start": Effort(0.3, 1.0),
        "tuned": Effort(0.7, 1.0),
        "halfway": Effort(0.7, 1.2),
        "student": Effort(1.0, 0.8),
        "low_bits": Effort(0.5, 0.8),
    },
)


class Room(NamedTuple):
    """A budget, and how much of it a file's header takes."""

    budget: str
    header: int

    @property
    def arrays(self) -> int:
        """Bytes that are left for the arrays."""
        return read_bytes(self.budget, "--budget") - self.header

    def too_small(self, arrays: int) -> UserError:
        """The refusal, where `arrays` bytes are the least."""
        return UserError(
            f"--budget {self.budget}: the smallest sub-network takes {arrays + self.header:,} "
            "bytes; give more, or a smaller --set model"
        )


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
        recipe: the recipe that the choices fill in.
        minutes: that training is expected to take on this machine.
        words: what this much speech can and cannot give.
    """

    recipe: str
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

    started, reason = _start(seen, start)
    config = started.model.config if started else recipe.model
    speed = measured_speed(config)
    with_supernet, direct = SUPERNET, DIRECT
    if started:
        with_supernet, direct = with_supernet.of_trained(), direct.of_trained()

    def heard_on(way: Way) -> float:
        if minutes is not None:
            return minutes / 60 * speed / way.cost
        return min(max(HEARD_PER_HOUR * seen.train.hours, LEAST_HEARD), MOST_HEARD)

    learnt = heard_on(with_supernet) * with_supernet.stages["supernet"].share
    way = with_supernet if learnt >= LEAST_SUPERNET else direct
    if started:
        choices.append(Choice(way.key("start", "from"), json.dumps(str(start)), reason))
        why = "it comes without the heads that training needs; they learn first, alone"
        choices.append(Choice(way.key("start", "heads_only"), "true", why))
        why = "the whole of it from the first step: it knows how to listen"
        choices.append(Choice(way.key("tuned", "augment.grows"), "[9.0, 9.0]", why))
    # A card tells of all stages, those of the start too.
    room = Room(budget, HEADER_BYTES + (len(json.dumps(started.card)) if started else 0))
    if way is with_supernet:
        choices += _searched(way, config, recipe, room)
    else:
        why = f"a supernet would hear {learnt:.1f} hours, and wants {LEAST_SUPERNET:g}: cut at once"
        choices += _cuts(way, config, room, why)

    heard = heard_on(way)
    why = f"{HEARD_PER_HOUR:g} hours for each of {seen.train.hours:.2f}, at least {LEAST_HEARD:g}"
    if minutes is not None:
        why = f"{minutes:g} minutes at {speed:.0f} x real time"
    for stage, effort in way.stages.items():
        if effort.share:
            hours = f"{heard * effort.share:.5f}"
            choices.append(Choice(way.key(stage, "audio_hours"), hours, why))
    taken = 60 * heard * way.cost / speed
    return Plan(way.recipe, choices, taken, list(_words(seen, started is not None)))


def _start(seen: Look, start: Path | None) -> tuple[Saved | None, str]:
    """The trained model to start from, if one should be; and why, or why not."""
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
    return saved, reason


def _searched(way: Way, config: ModelConfig, recipe: Recipe, room: Room) -> list[Choice]:
    """A supernet's sizes, and what may be searched and taken; UserError where none is that small.

    Sizes are halves to wholes of every dimension.
    """
    encoder = config.encoder

    def parts(whole: int, *shares: float) -> tuple[int, ...]:
        return tuple(sorted({_part(whole, share) for share in shares} - {whole}))

    sizes = SpaceConfig(
        layers=tuple(sorted({max(1, 2 * encoder.layers // 3)} - {encoder.layers})),
        width=parts(encoder.width, 0.5, 0.7, 0.85),
        heads=tuple(range((encoder.heads + 1) // 2, encoder.heads)),
        inner=parts(max(encoder.insides), 0.5, 0.7),
        predictor=parts(config.predictor, 0.5, 0.75),
        joiner=parts(config.joiner, 0.5, 0.75),
    )
    with torch.device("meta"):
        space = Space(Recogniser(config, vocabulary=LETTERS), sizes)
    searching = next(stage.search for stage in recipe.stage if stage.name == "search")
    assert searching is not None
    size = FileBytes(space, vocabulary=LETTERS)
    least = min(size(space.smallest, formats.rules) for formats in searching.formats)
    if least > room.arrays:
        raise room.too_small(least)
    rows = sizes.model_dump(exclude_defaults=True)
    supernet = _toml({**{key: value for key, value in rows.items() if value}, "random": 1})
    above, within = f'"{room.arrays * 3 // 2}"', f'"{room.arrays}"'
    why = f"{room.budget} less {room.header:,} for a header"
    return [
        Choice(way.key("supernet", "supernet"), supernet, "halves to wholes of every width"),
        Choice(way.key("search", "search.budget"), above, "half as much again: the way there"),
        Choice(way.key("halfway", "take.budget"), above, "the step between"),
        Choice(way.key("student", "take.budget"), within, why),
        Choice(way.key("low_bits", "take.budget"), within, "the same"),
    ]


def _cuts(way: Way, config: ModelConfig, room: Room, why: str) -> list[Choice]:
    """Even cuts of a model, the last of which fits; UserError where none does."""
    last = next(stage for stage in read_recipe(way.recipe).stage if stage.name == "low_bits")
    formats = last.model_dump(mode="json")["formats"]

    def size(share: float) -> int:
        small = merged(config.model_dump(mode="json"), _shrunk(config, share))
        with torch.device("meta"):
            read = ModelConfig.read(small | {"formats": formats}, "a smaller model")
            model = Recogniser(read, vocabulary=LETTERS)
        return int(size_of_model(model)["bytes"])

    shares = [part / 64 for part in range(64, 7, -1)]
    share = next((share for share in shares if size(share) <= room.arrays), None)
    if share is None:
        raise room.too_small(size(shares[-1]))
    halfway, student = (_toml(_shrunk(config, part)) for part in (math.sqrt(share), share))
    return [
        Choice(way.key("halfway", "model"), halfway, why),
        Choice(
            way.key("student", "model"), student, f"the widest in four bits within {room.budget}"
        ),
    ]


def _part(whole: int, share: float) -> int:
    """A share of a width, in multiples that N:M groups and kernels like."""
    return max(8, 8 * round(share * whole / 8))


def _shrunk(config: ModelConfig, share: float) -> dict[str, Any]:
    """A share of every width; heads stay whole, layers stay all."""
    encoder = config.encoder
    small: dict[str, Any] = {
        "width": _part(encoder.width, share),
        "heads": max(1, round(share * encoder.heads)),
        "head_width": encoder.head_width or encoder.width // encoder.heads,
    }
    if encoder.inner is not None:
        small["inner"] = [_part(inner, share) for inner in encoder.insides]
    rest = ("predictor", "joiner", "subsampling")
    return {"encoder": small, **{key: _part(getattr(config, key), share) for key in rest}}


def _toml(table: dict[str, Any]) -> str:
    """An inline table."""
    rows = (f"{k} = {_toml(v) if isinstance(v, dict) else json.dumps(v)}" for k, v in table.items())
    return f"{{ {', '.join(rows)} }}"


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
    """Seconds of audio a second that plain training should reach here, from steps on noise."""
    model, frames = Recogniser(config, vocabulary=LETTERS), round(100 * NOISE_SECONDS / 4)
    batch = Batch(
        features=torch.randn(4, frames, MELS),
        frames=torch.full((4,), frames),
        targets=torch.randint(2, LETTERS, (4, frames // 10)),
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
    return REACHED * NOISE_SECONDS / min(taken)
