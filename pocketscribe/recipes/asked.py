"""What was asked of a run: kept in its folder, and held to by whoever goes on with it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.files import read_json, write_json
from pocketscribe.recipes.recipe import Recipe, check_apart
from pocketscribe.speech.corpora import CorpusConfig, corpora_root, place

FILE = "recipe.json"  # in a run's folder


class Taken(Config):
    """Digests of the models that a run took from elsewhere."""

    models: dict[str, str]


def keep_recipe(recipe: Recipe, folder: Path) -> None:
    """Writes what is asked of the run in this folder."""
    write_json(folder / FILE, json.loads(recipe.model_dump_json(by_alias=True)))


def check_recipe(asked: Recipe, folder: Path) -> None:
    """Raises UserError where the folder holds a run of which something else was asked."""
    path = folder / FILE
    if not path.is_file():
        return
    made = Recipe.read(read_json(path), str(path))
    same_scored = (made.speech.dev, made.speech.test) == (asked.speech.dev, asked.speech.test)
    for key, same in {
        # What is scored may change, what was learnt from may not: nor what the former keeps
        # synthetic voices from reading.
        "speech": made.speech.train == asked.speech.train
        and made.speech.units == asked.speech.units
        and (same_scored or not any(part.texts for part in asked.corpora)),
        "model": made.model == asked.model,
        "stage": made.stage == asked.stage,
    }.items():
        if not same:
            raise UserError(
                f"{folder}: holds a run with another [{key}]; "
                "choose another --out, or delete the folder to start anew"
            )


def check_test_speech(recipe: Recipe, root: Path | None) -> None:
    """Raises UserError where test speech is trained on by another name for its folder."""
    root = corpora_root(root)

    def placed(part: CorpusConfig) -> CorpusConfig:
        if part.corpus == "synthetic":
            return part
        return part.model_copy(update={"corpus": str(place(part, root).resolve())})

    try:
        check_apart(map(placed, recipe.corpora), map(placed, recipe.speech.test))
    except ValueError as error:
        raise UserError(f"{recipe.name}: {error}") from None


@contextmanager
def alone(lock: FileLock) -> Iterator[None]:
    """Around what one process at a time may do in the folder of a lock.

    Raises:
        UserError: another process is at it.
    """
    folder = Path(lock.lock_file).parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder}: another process is at this run; wait for it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()
