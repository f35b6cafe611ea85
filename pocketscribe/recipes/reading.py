"""Recipes out of TOML files: what one stands on, what `--set` changes, and whether it all fits.

base = "english"        this recipe's [speech] and [model] stand on those of another recipe
like = "int8"           this stage's settings stand on those of an earlier stage, or of one of
the base's or of a shipped recipe's, as "english/float"
from = "english/float"  this stage starts from another run's stage: its folder lies beside ours
from = "a.safetensors"  or from a file; `teacher` likewise
"""

import tomllib
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from pocketscribe.errors import UserError, UserHint, told_of
from pocketscribe.export.open import model_file
from pocketscribe.models import LETTERS, ModelConfig, Recogniser, check_same_shape
from pocketscribe.models.cutting import check_cut
from pocketscribe.models.saved import sketch
from pocketscribe.models.subnets import Space
from pocketscribe.recipes.recipe import Recipe, StageConfig, is_outside, merged
from pocketscribe.search.frontier import frontier_of
from pocketscribe.training.teacher import check_lesson

RUNS = Path("runs")
LONGEST_RECIPE, LONGEST_LINE = 100_000, 2_000  # characters
MOST_LAYERS = 600  # of all stages' models

Stages = dict[str, dict[str, Any]]


def shipped() -> dict[str, Path]:
    """Name -> file of the recipes that come with the package."""
    folder = Path(str(resources.files("pocketscribe.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_recipe(recipe: str, changes: Sequence[str] = (), runs: Path = RUNS) -> Recipe:
    """Reads a recipe file or a shipped recipe's name, with `KEY=VALUE` changes on top.

    `runs` is where other runs lie whose models this one may start from.

    Raises:
        UserError: no such recipe, or a line that names file, key, value and what is allowed.
    """
    path = _file(recipe, Path())
    data = _composed(path, ())
    for change in changes:
        _change(data, change)
    read = Recipe.read({"name": path.stem, "changed": list(changes), **data}, path.name)
    with told_of(path.name):
        _check(read, Outside(runs))
    return read


def _check(recipe: Recipe, outside: "Outside") -> None:
    """Whether every stage's model can be made, and out of what it is to be made of.

    Raises:
        UserError: one cannot.
    """
    models: list[ModelConfig] = []
    spaces: dict[str, Space] = {}
    for stage in recipe.stage:
        config = recipe.model_of(stage.name, outside.config)
        with told_of(f"stage {stage.name!r}"):
            _check_words(stage, config, recipe, outside)
            if config not in models or stage.supernet is not None:
                models.append(config)
                if sum(model.encoder.layers for model in models) > MOST_LAYERS:
                    raise UserError(f"with it the models have more than {MOST_LAYERS} layers")
                with torch.device("meta"):  # names and shapes, no numbers: sharing must fit
                    made = Recogniser(config, vocabulary=LETTERS)
                    for hint in made.weights.hints():
                        warnings.warn(hint, UserHint, stacklevel=2)
                    if stage.supernet is not None:
                        spaces[stage.name] = Space(made, stage.supernet)
            if stage.search is not None:
                space = _space(stage, recipe, spaces)
                for formats in stage.search.formats:
                    if space is not None:
                        space.check_formats(formats.rules)


def _check_words(
    stage: StageConfig, config: ModelConfig, recipe: Recipe, outside: "Outside"
) -> None:
    """Whether a stage's words fit its model, and those of the stages that they name.

    Raises:
        UserError: one does not.
    """
    if stage.heads_only and config.head != "transducer":
        raise UserError("heads_only: a CTC model has no heads that only training needs")
    if stage.from_ is not None:
        check = check_same_shape if stage.cut is None else check_cut
        check(config, recipe.model_of(stage.from_, outside.config))
    if (teacher := stage.taught_by) is not None:
        teaches = recipe.model_of(teacher, outside.config)
        check_lesson(teaches, config, stage.distil, teacher)
    sparse = any(rule.sparsity for rule in config.formats)
    if stage.sampled_bits and not config.formats:
        raise UserError("sampled_bits: without formats nothing has bits; leave it out")
    if stage.patience and not stage.validations:
        raise UserError("patience: with validations = 0 nothing is scored; leave it out")
    if stage.patience and sparse and stage.masks.update == "schedule":
        raise UserError(
            "patience would stop by scores from before the N:M masks are whole: leave it out, or "
            "masks.update = 'every_step'"
        )
    if stage.take is not None and is_outside(stage.take.search):
        outside.check_searches(stage.take.search)


def _space(stage: StageConfig, recipe: Recipe, spaces: Mapping[str, Space]) -> Space | None:
    """The sub-networks that a stage comes with; None where another run tells.

    Raises:
        UserError: it comes with none.
    """
    by_name = {stage.name: stage for stage in recipe.stage}
    while stage.name not in spaces:
        if stage.from_ is None:
            raise UserError("search: no stage that it comes from has a supernet")
        if is_outside(stage.from_):
            return None
        stage = by_name[stage.from_]
    return spaces[stage.name]


class Outside:
    """Models that a recipe takes from elsewhere: files, and stages of the runs beside it."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._configs: dict[str, ModelConfig] = {}

    def file(self, name: str) -> Path | None:
        """The saved model behind a name such as "english/float"; None where there is none yet.

        Raises:
            UserError: it is neither there nor made by a shipped recipe.
        """
        for path in (Path(name), self.runs / name):
            if path.is_file() or (path / "model.safetensors").is_file():
                return model_file(path)
        self.maker(name)
        return None

    def maker(self, name: str) -> tuple[str, str]:
        """The shipped recipe and the stage that make a model which is not there.

        Raises:
            UserError: there are no such.
        """
        recipe, _, stage = name.partition("/")
        if recipe not in shipped():
            raise UserError(
                f"{name!r}: neither a model nor a stage of a run in {self.runs} or of a shipped "
                "recipe; give the path of a model, or RECIPE/STAGE"
            )
        names = [str(made.get("name")) for made in _stages(_composed(shipped()[recipe], ()))]
        if stage not in names:
            raise UserError(
                f"{name!r}: {recipe} has no stage {stage!r} (it has {', '.join(names)})"
            )
        return recipe, stage

    def recipe_of(self, name: str) -> Recipe:
        """The recipe that makes a model which is not there. Raises UserError as `maker`."""
        return read_recipe(self.maker(name)[0], (), self.runs)

    def config(self, name: str) -> ModelConfig:
        """The model behind a name, trained or not. Raises UserError as `file`."""
        if name not in self._configs:
            if (path := self.file(name)) is not None:
                self._configs[name] = sketch(path).model.config
            else:
                made = self.recipe_of(name)
                self._configs[name] = made.model_of(self.maker(name)[1], self.config)
        return self._configs[name]

    def check_searches(self, name: str) -> None:
        """Raises UserError where nothing was or will be found."""
        if (path := self.file(name)) is not None:
            searches = bool(frontier_of(sketch(path).card, str(path)))
        else:
            stages = {stage.name: stage for stage in self.recipe_of(name).stage}
            searches = stages[self.maker(name)[1]].search is not None
        if not searches:
            raise UserError(f"take.search = {name!r}: that stage does not search")


def _file(recipe: str, folder: Path) -> Path:
    """A recipe's file: by its path, from `folder` on, or by the name of a shipped one."""
    path = folder / recipe
    if path.is_file():
        return path
    if recipe not in shipped():
        raise UserError(
            f"recipe {recipe!r}: neither a file nor a shipped recipe "
            f"(shipped: {', '.join(shipped())})"
        )
    return shipped()[recipe]


def _composed(path: Path, above: tuple[str, ...]) -> dict[str, Any]:
    """A recipe's tables with what it stands on filled in; `above` are the recipes that led here."""
    try:
        data = _parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as TOML ({error})") from None
    known: Stages = {}
    base = data.pop("base", None)
    if base is not None:
        if not isinstance(base, str) or base in above:
            raise UserError(f"{path.name}: base = {base!r}: give another recipe's name or file")
        under = _composed(_file(base, path.parent), (*above, base))
        tables: dict[str, Any] = {key: under[key] for key in ("speech", "model") if key in under}
        data = merged(tables, data)
        known = _named(base, under)
    for index, stage in enumerate(_stages(data)):
        if (like := stage.pop("like", None)) is not None:
            recipe, slash, _ = str(like).rpartition("/")
            if slash and str(like) not in known and recipe not in above and recipe in shipped():
                known |= _named(recipe, _composed(shipped()[recipe], (*above, recipe)))
            if not isinstance(like, str) or like not in known:
                raise UserError(
                    f"{path.name}: stage.{index}.like = {like!r}: no such stage before it "
                    f"(known: {', '.join(known) or 'none'})"
                )
            stage.update(merged(deepcopy(known[like]), stage))  # --set changes one of them alone
        known[str(stage.get("name"))] = dict(stage)
    return data


def _named(recipe: str, data: dict[str, Any]) -> Stages:
    """A recipe's stages by the names that others know them by."""
    return {f"{recipe}/{stage.get('name')}": stage for stage in _stages(data)}


def _parsed(toml: str) -> dict[str, Any]:
    """Raises ValueError or RecursionError where it is no TOML, or would take minutes to read."""
    # Python's parser is quadratic in the parts of a dotted key.
    if len(toml) > LONGEST_RECIPE or max(map(len, toml.splitlines()), default=0) > LONGEST_LINE:
        raise ValueError(
            f"more than {LONGEST_RECIPE} characters, or {LONGEST_LINE} of them in a line"
        )
    return tomllib.loads(toml)


def _stages(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages as far as they are tables; whoever checks the recipe complains of the rest."""
    stages = data.get("stage")
    return [s for s in stages if isinstance(s, dict)] if isinstance(stages, list) else []


def _change(data: dict[str, Any], change: str) -> None:
    """Applies `a.b.0.c=value`; the value is TOML, or a plain string where it is none.

    What is in a list may go by its name, such as `stage.float.seed=1`.
    """
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise UserError(f"--set {change}: write KEY=VALUE, such as model.encoder.layers=4")
    try:
        value = _parsed(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = text
    except (ValueError, RecursionError) as error:
        raise UserError(f"--set {key}: not readable as TOML ({error})") from None
    *path, last = key.split(".")
    node: Any = data
    try:
        for part in path:
            node = node[_at(node, part)] if isinstance(node, list) else node.setdefault(part, {})
        if isinstance(node, list):
            node[_at(node, last)] = value
        else:
            node[last] = value
    except (IndexError, ValueError, TypeError, AttributeError):
        raise UserError(f"--set {change}: the recipe has no place {key!r}") from None


def _at(rows: list[Any], part: str) -> int:
    """Where in a list a part of a key points; ValueError where nothing there has such a name."""
    names = [row.get("name") if isinstance(row, dict) else None for row in rows]
    return names.index(part) if part in names else int(part)
