"""`size` of whatever the command line names: a recipe is sized before anything is trained."""

from pathlib import Path
from typing import Any

from pocketscribe.errors import UserError
from pocketscribe.export.size import size_of_file, size_of_model
from pocketscribe.models import Recogniser
from pocketscribe.recipes.recipe import read_recipe, shipped

ENGLISH = 30  # A–Z, apostrophe, word mark, blank, unknown


def size(model: str) -> dict[str, Any]:
    """The documented keys of `size --json`; "note" says what a recipe alone cannot tell.

    Raises:
        UserError: it is neither a model nor a recipe.
    """
    path = Path(model)
    if path.suffix == ".toml" or (not path.exists() and model in shipped()):
        recipe = read_recipe(model)
        if recipe.speech.units.kind != "char":
            return size_of_model(Recogniser(recipe.model, recipe.speech.units.size))
        found = size_of_model(Recogniser(recipe.model, ENGLISH))
        return {**found, "note": f"counted with {ENGLISH} units; the transcripts decide"}
    if not path.exists():
        raise UserError(
            f"{model}: neither a model nor a recipe (shipped recipes: {', '.join(shipped())})"
        )
    return size_of_file(path)
