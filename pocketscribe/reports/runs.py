"""What a report knows of a run: its scores, its models' cards, and how its stages learnt."""

import math
import shlex
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from pocketscribe.config import Config
from pocketscribe.errors import UserError, UserHint
from pocketscribe.evaluation.report import Count, read_results
from pocketscribe.files import read_json
from pocketscribe.models.saved import sketch
from pocketscribe.search.frontier import Point
from pocketscribe.speech.corpora import CorpusConfig


class StageCard(Config, extra="ignore"):
    """What a stage says on its model's card."""

    name: str
    audio_hours_heard: float = Field(ge=0)
    parameters: int | None = Field(default=None, ge=0)  # of older models it is not known


class Card(Config, extra="ignore"):
    """What a report reads of a model's card."""

    parameters: Count
    stages: tuple[StageCard, ...]
    frontier: tuple[Point, ...] = ()


class _Speech(Config, extra="ignore"):
    dev: tuple[CorpusConfig, ...] = ()
    test: tuple[CorpusConfig, ...] = ()


class _Recipe(Config, extra="ignore"):
    speech: _Speech


def results_of(run: Path) -> Path:
    """Where a run's results lie: in its folder, or `run` itself, kept without its run."""
    return run if run.suffix == ".json" else run / "results.json"


class FinishedRun:
    """A run's folder with results in it, or its results alone: a .json file.

    Raises:
        UserError: these are not the results of a run.
    """

    def __init__(self, run: Path) -> None:
        alone = results_of(run) == run
        kept = alone and run.name != "results.json"  # else it lies in its run's folder
        self.given, self.folder = run, run.parent if alone else run
        self.name = run.stem if kept else self.folder.resolve().name
        self.results = read_results(results_of(run))
        self.rows = tuple(
            Row(self, stage, title, result)
            for stage, model in self.results["models"].items()
            for title, result in model["scores"].items()
        )

    @property
    def command(self) -> str:
        """What makes the run, as far as its results tell."""
        if told := self.results.get("command"):
            return str(told)
        recipe = self.results["recipe"]
        other = [] if recipe == self.name else ["--out", f"runs/{self.name}"]
        changed = [word for change in self.results.get("changed", ()) for word in ("--set", change)]
        return shlex.join(["pocketscribe", "run", recipe, *other, *changed])

    @cached_property
    def cards(self) -> dict[str, Card]:
        """The cards by stages: of what stages left, and of what was scored.

        A file that is not there is left out, as is, with a hint, one that cannot be read.
        """
        files = {f.parent.name: f for f in sorted(self.folder.glob("*/model.safetensors"))}
        for stage, model in self.results["models"].items():
            shipped = model.get("file") and self.folder / model["file"]
            if shipped and shipped.is_file():
                files[stage] = shipped
        found = {}
        for stage, file in files.items():
            try:
                found[stage] = Card.read(sketch(file).card, f"{file}: its card")
            except UserError as error:
                message = f"{error}; the report goes without its training cost"
                warnings.warn(message, UserHint, stacklevel=2)
        return found

    def parts(self) -> dict[str, CorpusConfig]:
        """The parts that the run's recipe scores on, by title; UserError where it has none."""
        path = self.folder / "recipe.json"
        if not path.is_file():
            raise UserError(
                f"--audio: {self.folder} has no recipe.json to say what was scored; give the run's "
                "own folder"
            )
        speech = _Recipe.read(read_json(path), f"{path}: not the recipe of a run").speech
        return {part.title: part for part in (*speech.dev, *speech.test)}


@dataclass(frozen=True, eq=False)
class Row:
    """A model, scored on a part: `result` is `evaluate`'s. Equal to itself alone."""

    run: FinishedRun
    model: str
    data: str
    result: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.run.name} {self.model}"

    @property
    def method(self) -> str:
        """The systems that made it; its run's name where the results do not tell them."""
        told = self.run.results["models"][self.model].get("methods")
        return self.run.name if told is None else " + ".join(told) or "plain"

    @property
    def cost(self) -> float | None:
        """Audio hours that its stages heard times the parameters that learnt from them.

        Where a card does not tell a stage's parameters, they are those of its own model if the run
        holds it, else this one's. What its teachers cost is not in it.
        """
        cards = self.run.cards
        if (card := cards.get(self.model)) is None:
            return None
        cost = sum(
            stage.audio_hours_heard * (stage.parameters or cards.get(stage.name, card).parameters)
            for stage in card.stages
        )
        return cost if math.isfinite(cost) else None

    def plain(self) -> dict[str, Any]:
        """For report.json: all but the hypotheses."""
        kept = {k: v for k, v in self.result.items() if k != "hypotheses"}
        named = {"run": self.run.name, "model": self.model, "method": self.method}
        return {**named, "data": self.data, "training_cost": self.cost, **kept}


@dataclass(frozen=True)
class Measure:
    """What word errors are drawn against: its short name, an axis's label, and a row's value."""

    name: str
    label: str
    of: Callable[[Row], float | None]


MEASURES = (
    Measure("bytes", "size, MB", lambda row: row.result["bytes"] / 1e6),
    Measure(
        "parameters",
        "parameters stored, millions",
        lambda row: row.result["parameters_stored"] / 1e6,
    ),
    Measure("rtf", "real-time factor", lambda row: row.result["rtf"]),
    Measure(
        "training",
        "training cost, audio hours × million parameters",
        lambda row: row.cost and row.cost / 1e6,
    ),
)
