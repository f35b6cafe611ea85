"""`size` of whatever the command line names: a recipe is sized before anything is trained."""

from pathlib import Path
from typing import Any

import torch

from pocketscribe.errors import UserError
from pocketscribe.export.open import exported_graphs, model_file
from pocketscribe.export.size import size_of_file, size_of_model
from pocketscribe.models import LETTERS, Recogniser
from pocketscribe.models.saved import sketch
from pocketscribe.recipes.reading import RUNS, Outside, read_recipe, shipped
from pocketscribe.recipes.recipe import Recipe
from pocketscribe.search.frontier import frontier_of


def size(model: str) -> dict[str, Any]:
    """The documented keys of `size --json`; "note" says what a recipe alone cannot tell.

    Of a supernet that was searched, "frontier" has the best sub-networks, smallest file first.

    Raises:
        UserError: it is neither a model nor a recipe.
    """
    path = Path(model)
    if path.suffix == ".toml" or (not path.exists() and model in shipped()):
        return _of_recipe(read_recipe(model))
    if not path.exists():
        raise UserError(
            f"{model}: neither a model nor a recipe (shipped recipes: {', '.join(shipped())})"
        )
    found = size_of_file(path)
    if not exported_graphs(path):
        points = frontier_of(sketch(model_file(path)).card, str(path))
        found |= {"frontier": [p.model_dump(mode="json") for p in points]} if points else {}
    return found


def _of_recipe(recipe: Recipe) -> dict[str, Any]:
    """Of the last stage's model; "models" has every stage's size where they differ."""
    outside = Outside(RUNS)
    units, learnt = _units(recipe, outside)
    with torch.device("meta"):  # shapes alone: whatever its size, it need not fit this machine
        models = {
            s.name: Recogniser(recipe.model_of(s.name, outside.config), units) for s in recipe.stage
        }
    found = size_of_model(list(models.values())[-1])
    if len({model.config.model_dump_json() for model in models.values()}) > 1:
        keys = ("bytes", "parameters_stored", "parameters_virtual")
        sizes = {name: size_of_model(model) for name, model in models.items()}
        found["models"] = {name: {key: s[key] for key in keys} for name, s in sizes.items()}
    notes = ["a file's header (names, plan, card: 10 to 50 kB) comes besides"]
    if learnt:
        notes.append(f"counted with {units} units; the transcripts decide")
    if asked := [f"{s.name} {s.take.budget}" for s in recipe.stage if s.take is not None]:
        notes.append(f"counted as what they come from, until a search has run: {', '.join(asked)}")
    return found | {"note": "; ".join(notes)}


def _units(recipe: Recipe, outside: Outside) -> tuple[int, bool]:
    """How many text units a recipe's models write, and whether only its transcripts can tell.

    A model that is taken from elsewhere brings its own.
    """
    first = recipe.first_outside
    if first is None:
        learnt = recipe.speech.units.kind == "char"
        return (LETTERS if learnt else recipe.speech.units.size), learnt
    if (path := outside.file(first)) is not None:
        return sketch(path).model.vocabulary, False
    return _units(outside.recipe_of(first), outside)
