"""What to train for how long, to fit a budget: every choice a line of the recipe, with its reason.

The numbers are rules of thumb, as those of ways.py; each can be fixed by `--set`, for a plan is
nothing but changes to recipes/fit.toml or, where training is short, to recipes/fit_direct.toml.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketscribe.errors import UserError
from pocketscribe.fit.look import Look, Part
from pocketscribe.fit.sizes import STAGE_BYTES, cuts, fits_whole, room, searched, toml, whole
from pocketscribe.fit.speed import measured_speed
from pocketscribe.fit.ways import DIRECT, SUPERNET, Choice, Way
from pocketscribe.models.saved import Saved, sketch
from pocketscribe.recipes.reading import read_recipe
from pocketscribe.recipes.recipe import Recipe
from pocketscribe.speech.units import Units

LITTLE_HOURS = 100.0  # of speech: below it a trained model is a better start than none
HEARD_PER_HOUR, LEAST_HEARD, MOST_HEARD = 8.0, 6.0, 400.0  # hours, of which each stage has a share
MOST_PASSES = 200.0  # over the speech: more would be learning it by heart
LEAST_SUPERNET = 20.0  # hours that a supernet hears: below them its small sizes stay far behind
ENOUGH_TO_KEEP = 10.0  # hours of speech: below them a cut model forgets most of a language
FEW_WORDS = 300  # of dev: fewer cannot tell one candidate from another
ENOUGH_STEPS = 50  # of a stage: fewer teach it next to nothing
TELLING_WORDS = 1_000  # of test: fewer, and an interval is wide


@dataclass
class Plan:
    """What will be done.

    Attributes:
        way: its recipe is the one that the choices fill in.
        speed: times real time of a plain step of the largest model on this machine.
        words: what this much speech can and cannot give.
    """

    way: Way
    choices: list[Choice]
    speed: float
    words: list[str]

    @property
    def changes(self) -> list[str]:
        return [choice.change for choice in self.choices]

    def minutes(self, recipe: Recipe) -> float:
        """That training is expected to take: `recipe` is the filled one, with what --set fixed."""
        plain = sum(s.audio_hours * self.way.stages[s.name].cost for s in recipe.stage)
        return 60 * plain / self.speed


def plan(
    seen: Look,
    budget: str,
    minutes: float | None,
    start: Path | None,
    recipe: Recipe,
    speed: float | None = None,
    device: str = "cpu",
    changes: Sequence[str] = (),
) -> Plan:
    """The plan for a folder; `recipe` has model and units for where it starts from nothing.

    `speed` is that of an earlier plan; otherwise it is measured, on `device`. What `changes` fix of
    the stages is planned with.

    Raises:
        UserError: the budget is below the smallest sub-network, which the line names; or `changes`
            are to the shape of the model to start from.
    """
    started, reason = _start(seen, start)
    for change in changes:
        if started and change.startswith("model"):
            raise UserError(
                f"--set {change}: {start}, which it starts from, has a shape of its own; "
                "--start none starts from nothing"
            )
    words = [word for part in seen.parts.values() for word in part.words]
    units = (
        Units.from_json(started.units, str(start))
        if started
        else Units.learn(words, recipe.speech.units)
    )
    config = started.model.config if started else recipe.model
    speed = speed or measured_speed(config, device)
    with_supernet, direct = SUPERNET, DIRECT
    headed = started is not None and bool(started.model.auxiliary)
    if started:
        with_supernet, direct = (w.of_trained(headed) for w in (with_supernet, direct))

    learnt = _heard(with_supernet, seen, minutes, speed) * with_supernet.stages["supernet"].share
    way = with_supernet if learnt >= LEAST_SUPERNET else direct
    choices = list(_parts(seen))
    if started:
        choices.append(Choice("stage.start.from", toml(str(start)), reason))
        if headed:
            why = "it comes with the heads that training needs"
            choices.append(Choice("stage.start.audio_hours", "0", why))
        else:
            why = "it comes without the heads that training needs; they learn first, alone"
            choices.append(Choice("stage.start.heads_only", "true", why))
        why = "all of it from the first step: it knows how to listen"
        for stage, effort in way.stages.items():
            if effort.share and stage != "start":
                choices.append(Choice(f"stage.{stage}.augment.grows", "[9.0, 9.0]", why))
                why = "likewise"
    # A card tells of all stages, those of the start too, and of two parts' scores, by the folder.
    told = (" " * STAGE_BYTES + str(seen.folder)) * (len(way.stages) + 2)
    card = {**(started.card if started else {}), "": told}
    filled = read_recipe(way.recipe, changes)
    if [stage.name for stage in filled.stage] != list(way.stages):
        raise UserError(f"--set: the stages of fit are called {', '.join(way.stages)}")
    space = room(budget, config, filled, card, units)
    fixed = any(change.startswith("stage.low_bits.formats") for change in changes)
    cut = way is with_supernet or fixed or not fits_whole(config, space)
    if way is with_supernet:
        choices += searched(config, filled, space)
    elif not cut:
        choices += whole(config, space)
    else:
        why = f"a supernet would hear {learnt:.1f} hours, and wants {LEAST_SUPERNET:g}: cut at once"
        choices += cuts(config, filled, space, why)

    heard = _heard(way, seen, minutes, speed)
    why = (
        f"{HEARD_PER_HOUR:g} hours for each of {seen.train.hours:.2g}, at least {LEAST_HEARD:g} or "
        f"{MOST_PASSES:g} times all of it, at most {MOST_HEARD:g}"
    )
    if minutes is not None:
        why = f"{minutes:g} minutes at {speed:.0f} x real time"
    for stage, effort in way.stages.items():
        if effort.share:
            hours, share = f"{heard * effort.share:.5f}", f"{effort.share:.0%} of {heard:.3g}"
            choices.append(Choice(f"stage.{stage}.audio_hours", hours, f"{share}: {why}"))
            why = "likewise"
    words = list(_words(seen, started is not None, cut))
    if started:
        words.insert(0, f"It writes the {len(units)} units of what it starts from.")
    else:
        words.insert(
            0, f"From nothing: {reason}. Its {len(units)} units are learnt from its words."
        )
    return Plan(way, choices, speed, words)


def _parts(seen: Look) -> Iterator[Choice]:
    """What is trained, chosen and scored on."""
    folder = toml(seen.corpus)
    yield Choice("speech.train.0.corpus", folder, "the folder")
    dev_words = sum(seen.parts["dev"].words.values()) if "dev" in seen.parts else 0
    if dev_words < FEW_WORDS:
        why = f"{dev_words} words of dev tell no sizes apart: they are chosen on training speech"
        yield Choice("speech.dev", f"[{{ corpus = {folder} }}]", why)
    else:
        yield Choice("speech.dev.0.corpus", folder, "the folder")
    if seen.parts.get("test", Part()).utterances:
        yield Choice("speech.test.0.corpus", folder, "the folder")
    else:
        yield Choice("speech.test", "[]", "nothing that can be scored is set aside")


def fewest_steps(recipe: Recipe) -> int:
    """Of the stages that train: how many the shortest has."""
    trained = [stage for stage in recipe.stage if stage.audio_hours]
    return max(1, int(min(stage.steps for stage in trained)))


def _heard(way: Way, seen: Look, minutes: float | None, speed: float) -> float:
    """Hours of audio that a stage hears of which all of them are one share."""
    if minutes is not None:
        return minutes / 60 * speed / way.cost
    least = min(LEAST_HEARD, MOST_PASSES * seen.train.hours)
    return min(max(HEARD_PER_HOUR * seen.train.hours, least), MOST_HEARD)


def _start(seen: Look, start: Path | None) -> tuple[Saved | None, str]:
    """The trained model to start from, if one should be; and why, or why not."""
    if start is None:
        return None, "there is no trained model to start from (--start)"
    if seen.train.hours >= LITTLE_HOURS:
        return None, f"{seen.train.hours:.0f} hours are enough to start from nothing"
    saved = sketch(start)
    units = Units.from_json(saved.units, str(start))
    unknown = sorted(seen.letters - {c for c in seen.letters if units.can_spell(c)})
    if unknown:
        words = [w for part in seen.parts.values() for w in part.words if set(w) & set(unknown)]
        return None, (
            f"{start.name} cannot spell {' '.join(unknown)}, as in {words[0]!r} ({len(words)} of "
            f"{sum(len(part.words) for part in seen.parts.values())} words); without them it would "
            "be the start"
        )
    heard = [stage.get("audio_hours_heard", 0) for stage in saved.stages]
    hours = sum(h for h in heard if isinstance(h, int | float))
    reason = f"{seen.train.hours:.2g} h are little; it has heard {hours:.0f} h and spells all of it"
    return saved, reason


def _words(seen: Look, started: bool, cut: bool) -> Sequence[str]:
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
    if hours < ENOUGH_TO_KEEP and started and cut:
        found.append(
            "What is cut from the trained recogniser hears this folder alone, and loses much of "
            "what it knew besides: do not expect other words or voices of it. More speech to "
            """train on: --set 'speech.train=[{corpus = "FOLDER"}, {corpus = "MORE"}]'."""
        )
    if words < TELLING_WORDS:
        found.append(
            f"{words} words of test tell little: what is scored on them is no promise "
            f"(a thousand words narrow a rate to some points)."
        )
    return found
