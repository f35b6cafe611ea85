"""What a plan chooses by what was looked at: folders made by hand, and no speech."""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cards import card_of
from pocketscribe.fit import plan as planning
from pocketscribe.fit.look import Look, Part
from pocketscribe.fit.plan import FEW_WORDS, LEAST_SUPERNET, LITTLE_HOURS, Plan, plan
from pocketscribe.fit.sizes import Room, room
from pocketscribe.fit.ways import DIRECT, HEADS, SUPERNET
from pocketscribe.models.saved import load_model, save_model
from pocketscribe.recipes.reading import read_recipe
from pocketscribe.recipes.recipe import Recipe
from pocketscribe.speech.units import Units

SMALL = (
    "model.encoder={ family = 'conformer', width = 32, layers = 1, heads = 2, kernel = 4 }",
    *(f"model.{name}=16" for name in ("predictor", "joiner", "subsampling")),
)
FOLDER = Path("/spoken")


def part(words: int, hours: float = 0.1) -> Part:
    return Part(hours=hours, utterances=words, words=Counter({"ONE": words}))


def planned(
    hours: float,
    dev: int | None = None,
    test: int | None = None,
    minutes: float | None = None,
    start: Path | None = None,
    changes: tuple[str, ...] = (),
    budget: str = "10MB",
    folder: Path = FOLDER,
) -> Plan:
    """For a folder of so many hours to train on, and words of dev and test; None: no such part."""
    words = {"dev": dev, "test": test}
    others = {split: part(count) for split, count in words.items() if count is not None}
    parts = {"train": part(1_000, hours), **others}
    seen = Look(folder, str(folder), parts, "", [-20.0], Counter({16_000: 1}), {})
    recipe = read_recipe("fit", SMALL)
    return plan(seen, budget, minutes, start, recipe, 60.0, changes=changes)


def chosen(found: Plan) -> dict[str, str]:
    return {choice.key: choice.value for choice in found.choices}


def hours_of(found: Plan) -> dict[str, float]:
    hours = {key: value for key, value in chosen(found).items() if key.endswith("audio_hours")}
    return {key.split(".")[1]: float(value) for key, value in hours.items()}


def test_enough_words_of_dev_choose_sizes() -> None:
    enough, few = chosen(planned(1.0, dev=FEW_WORDS)), planned(1.0, dev=FEW_WORDS - 1)
    assert enough["speech.dev.0.corpus"] == '"/spoken"' and "speech.dev" not in enough
    assert chosen(few)["speech.dev"] == '[{ corpus = "/spoken" }]'
    [reason] = [choice.reason for choice in few.choices if choice.key == "speech.dev"]
    assert reason.startswith("299 words of dev tell no sizes apart")
    assert chosen(planned(1.0))["speech.dev"] == '[{ corpus = "/spoken" }]'


def test_a_test_part_is_scored_where_there_is_one() -> None:
    assert chosen(planned(1.0, test=1))["speech.test.0.corpus"] == '"/spoken"'
    for missing in (None, 0):
        found = chosen(planned(1.0, test=missing))
        assert found["speech.test"] == "[]" and "speech.test.0.corpus" not in found


def test_much_speech_starts_from_nothing(talkative: Path, tmp_path: Path) -> None:
    much = planned(LITTLE_HOURS, start=tmp_path / "not even looked at")
    assert "stage.start.from" not in chosen(much)
    assert much.words[0].startswith("From nothing: 100 hours are enough to start from nothing. Its")
    shipped = tmp_path / "shipped.safetensors"
    save_model(shipped, load_model(talkative), half=True)
    little = planned(LITTLE_HOURS - 0.1, start=shipped)
    assert chosen(little)["stage.start.from"] == f'"{shipped}"'
    assert little.way.stages["start"] == HEADS
    assert little.words[0].startswith("It writes the ")


def test_heads_that_are_there_need_no_training(talkative: Path) -> None:
    """A stage of a run has them; what ships has not."""
    found = planned(1.0, start=talkative)
    assert chosen(found)["stage.start.audio_hours"] == "0"
    assert "stage.start.heads_only" not in chosen(found)
    assert sum(hours_of(found).values()) == pytest.approx(
        8.0 * sum(effort.share for name, effort in found.way.stages.items() if name != "start")
    )


@pytest.mark.parametrize(
    ("hours", "heard"),
    [
        (0.01, 2.0),  # two hundred times all of it
        (0.5, 6.0),  # the least
        (2.0, 16.0),  # eight for each
        (10.0, 80.0),
        (1_000.0, 400.0),  # the most
    ],
)
def test_hours_that_are_heard_follow_the_speech(hours: float, heard: float) -> None:
    found = planned(hours)
    assert found.way == (SUPERNET if 0.6 * heard >= LEAST_SUPERNET else DIRECT)
    expected = {name: heard * stage.share for name, stage in found.way.stages.items()}
    assert hours_of(found) == pytest.approx({k: v for k, v in expected.items() if v})


@pytest.mark.parametrize("minutes", [30.0, 500.0])
def test_minutes_are_kept(minutes: float) -> None:
    """As the recipe that is filled in tells them, too."""
    found = planned(1.0, minutes=minutes)
    spent = {name: found.way.stages[name].cost * heard for name, heard in hours_of(found).items()}
    assert sum(spent.values()) == pytest.approx(minutes / 60 * found.speed, rel=1e-3)
    recipe = read_recipe(found.way.recipe, [*SMALL, *found.changes])
    assert found.minutes(recipe) == pytest.approx(minutes, rel=1e-3)
    assert (found.way == SUPERNET) == (minutes == 500)


def test_what_the_speech_can_give_is_told(talkative: Path) -> None:
    def told(hours: float, **options: object) -> str:
        return " ".join(planned(hours, test=1_000, **options).words)

    assert "Without a trained model to start from, expect little" in told(0.4)
    assert "30.0 minutes" not in told(0.5)
    assert "0.5 hours from nothing make a weak recogniser" in told(0.5)
    assert "weak" not in told(10.0)
    started = told(0.4, start=talkative, budget="17kB")
    assert "24.0 minutes" in started and "expect little" not in started
    assert "loses much of what it knew besides" in started
    assert "loses much" not in told(0.4, start=talkative)
    assert "tell little" not in told(10.0)
    assert "999 words of test tell little" in " ".join(planned(10.0, test=999).words)


def test_formats_that_are_fixed_are_planned_with() -> None:
    """Where all would fit in eight bits, too; fewer bits leave room for more."""
    assert "stage.low_bits.formats" in chosen(planned(1.0))
    widths = []
    for bits in (4, 8):
        fixed = (f"stage.low_bits.formats=[{{ match = '*', bits = {bits} }}]",)
        assert "stage.low_bits.formats" not in chosen(planned(1.0, changes=fixed))
        small = chosen(planned(1.0, changes=fixed, budget="30kB"))["stage.student.model"]
        widths.append(tomllib.loads(f"model = {small}")["model"]["encoder"]["width"])
    assert widths[0] > widths[1]


@pytest.mark.parametrize("letters", [10, 250])
def test_a_header_has_room_for_what_stages_say(
    monkeypatch: pytest.MonkeyPatch, letters: int
) -> None:
    """Each names the folder, wherever that lies; the digits of a wide model are a thousand."""
    folder = Path("/ö") / ("x" * letters)
    spare = []

    def measured(budget: str, config: Any, recipe: Recipe, card: dict, units: Units) -> Room:
        found = room(budget, config, recipe, card, units)
        written = room(budget, config, recipe, card_of(str(folder)), units)
        spare.append(found.header - written.header)
        return found

    monkeypatch.setattr(planning, "room", measured)
    planned(1.0, folder=folder)
    assert 1_000 < spare[0] < 3_000
