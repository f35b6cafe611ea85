"""A run's folder: every JSON file of it, as its readers find it."""

import json
import random
from pathlib import Path

import pytest
from rich.console import Console

from harm import cases, flipped, harmed, refused, to_json
from pocketscribe.evaluation.report import read_results, results_table
from pocketscribe.export.open import model_file
from pocketscribe.files import read_json
from pocketscribe.recipes.reading import read_recipe
from pocketscribe.recipes.recipe import Recipe
from pocketscribe.reports.report import write_report
from pocketscribe.speech.units import Units
from pocketscribe.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from pocketscribe.training.optimisers import OptimiserConfig, build_optimiser
from talkative import characters, tiny_model

ERRORS = {"wer": 0.5, "ci_low": 0.4, "ci_high": 0.6, "words": 4, "utterances": 2}
ERRORS |= {"substitutions": 1, "deletions": 1, "insertions": 0}
SCORE = {**ERRORS, "rtf": 0.1, "parameters_stored": 1, "bytes": 9, "emission_delay": None}
HYPOTHESIS = {"id": "a", "reference": "A B", "hypothesis": "A"}
SCORE |= {"groups": {"child": ERRORS}, "hypotheses": [HYPOTHESIS]}
RESULTS = {
    "recipe": "mine",
    "beam": 1,
    "models": {"float": {"file": "x", "chunk": "1", "scores": {"dev": SCORE}}},
}


def written(path: Path, data: object, rng: random.Random) -> None:
    """Harmed as data, or as text."""
    text = to_json(harmed(data, rng)) if rng.random() < 0.7 else json.dumps(data)
    path.write_bytes(text.encode() if rng.random() < 0.7 else flipped(text.encode(), rng))


def test_results(tmp_path: Path) -> None:
    path = tmp_path / "run" / "results.json"
    path.parent.mkdir()

    def read() -> None:
        console = Console(quiet=True)
        console.print(results_table(read_results(path)))
        write_report([path.parent], tmp_path / "report")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pocketscribe.reports.report._plot", lambda *_: None)  # slow
        for case, rng in cases("results", 60):
            written(path, RESULTS, rng)
            refused(case, read)


def test_recipe(tmp_path: Path) -> None:
    path, recipe = tmp_path / "recipe.json", read_recipe("usm_lite")
    data = json.loads(recipe.model_dump_json(by_alias=True))
    for case, rng in cases("recipe.json", 60):
        written(path, data, rng)
        refused(case, lambda: Recipe.read(read_json(path), str(path)))
        refused(case, model_file, tmp_path)  # there is none: it always says something


def test_units(tmp_path: Path) -> None:
    path, units = tmp_path / "units.json", characters()
    units.write(path)
    data = read_json(path)
    for case, rng in cases("units.json", 60):
        written(path, data, rng)
        refused(case, lambda: Units.read(path).decode([1, 2, 3]))


def test_state(tmp_path: Path) -> None:
    model = tiny_model("transducer", characters(), 0)
    optimiser = build_optimiser(OptimiserConfig(), model.named_parameters())
    sum(p.square().sum() for p in model.parameters()).backward()
    optimiser.step()
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, model, model, {}, optimiser, Progress(step=1), "units")
    data = read_json(folder / "state.json")
    for case, rng in cases("state.json", 30):
        written(folder / "state.json", data, rng)
        refused(case, load_checkpoint, folder, model, model, optimiser)
