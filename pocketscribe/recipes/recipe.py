"""A recipe is a list of stages: what is trained on what, in one TOML file."""

import json
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Discriminator, Field, Tag, model_validator

from pocketscribe.config import Config, FileName
from pocketscribe.errors import UserError
from pocketscribe.models import ModelConfig, Recogniser
from pocketscribe.speech.corpora import CorpusConfig
from pocketscribe.speech.units import UnitsConfig
from pocketscribe.training.loop import TrainingConfig
from pocketscribe.training.masks import MaskConfig
from pocketscribe.training.objectives import DistilConfig
from pocketscribe.weights import FormatRule

LONGEST_RECIPE, LONGEST_LINE = 100_000, 2_000  # characters
MOST_LAYERS = 600  # of all stages' models


class SpeechConfig(Config):
    """What is heard.

    Attributes:
        train, dev, test: parts of corpora; a stage may name training parts of its own.
        units: the text units, learnt from all training transcripts.
        bad_share: a corpus with more bad items than this stops the run.
    """

    train: tuple[CorpusConfig, ...] = Field(min_length=1)
    dev: tuple[CorpusConfig, ...] = ()
    test: tuple[CorpusConfig, ...] = ()
    units: UnitsConfig = UnitsConfig()
    bad_share: float = Field(default=0.05, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> "SpeechConfig":
        titles = [corpus.title for corpus in (*self.dev, *self.test)]
        for title in titles:
            if titles.count(title) > 1:
                raise ValueError(
                    f"dev and test name {title!r} twice; results are told by that name"
                )
        return self


class StageConfig(TrainingConfig):
    """What every stage has: each leaves one model, from scratch or from an earlier stage's weights.

    Attributes:
        from_: the earlier stage (written `from` in TOML) whose model and weights to start from.
        model: changes to that stage's model, or to the recipe's where there is no `from`: keys as
            in [model]. Trained weights are converted to a new sharing or rank.
        train: corpora of this stage alone, in place of speech.train.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    from_: str | None = Field(default=None, alias="from")
    model: dict[str, Any] = Field(default_factory=dict)
    train: tuple[CorpusConfig, ...] | None = None


class TrainStage(StageConfig):
    """Trains a model on transcripts."""

    kind: Literal["train"] = "train"


class FinetuneStage(StageConfig):
    """Brings a trained model into formats of few bits and N:M sparsity (arXiv 2312.08553).

    Attributes:
        audio_hours: 0 converts and trains nothing: post-training quantisation, the baseline.
        weights: rules, first match wins: in what format each weight ships.
        teacher: the stage to distil from; the one in `from` if not given, none if false.
        distil: how much the teacher counts.
        masks: when N:M masks are taken, and what gradient the weights get that they leave out.
        sampled_bits: widths that take turns with the formats' own, so that one master weight
            serves them all: later stages of no hours take them out of it.
    """

    kind: Literal["finetune"]
    audio_hours: float = Field(ge=0)
    weights: tuple[FormatRule, ...] = Field(min_length=1)
    teacher: str | Literal[False] | None = None
    distil: DistilConfig = DistilConfig()
    masks: MaskConfig = MaskConfig()
    sampled_bits: tuple[Literal[8, 4], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "FinetuneStage":
        if self.from_ is None:
            raise ValueError("a fine-tuning needs from: the stage whose model it goes on with")
        if teacher_of(self) is not None and self.loss.transducer == "full":
            raise ValueError(
                "a teacher is listened to in the windows of the pruned loss: "
                "loss.transducer = 'pruned', or teacher = false"
            )
        return self


def _kind(stage: Any) -> str:
    """The tag of a stage's kind; it looks like no key, so that errors can tell the two apart."""
    kind = stage.get("kind", "train") if isinstance(stage, dict) else stage.kind
    return f"kind={kind}"


KINDS = ("train", "finetune")
Stage = Annotated[
    Annotated[TrainStage, Tag("kind=train")] | Annotated[FinetuneStage, Tag("kind=finetune")],
    Discriminator(_kind),
]


class EvaluateConfig(Config):
    """How models are scored.

    Attributes:
        beam: width of the beam search; 1 is greedy.
        stages: whose models are scored and shipped: the last one's, every one's, or those named.
    """

    beam: int = Field(default=1, ge=1)
    stages: Literal["last", "all"] | tuple[str, ...] = "last"


class Recipe(Config):
    """A whole recipe. A run is one recipe file; its name is the file's."""

    name: FileName
    speech: SpeechConfig
    model: ModelConfig = ModelConfig()
    stage: tuple[Stage, ...] = Field(min_length=1, max_length=100)
    evaluate: EvaluateConfig = EvaluateConfig()

    @classmethod
    def read(cls, data: Any, source: str) -> "Recipe":
        """As any config; an unknown kind of stage is told here, where no kind could be named."""
        stages = data.get("stage") if isinstance(data, dict) else None
        for index, stage in enumerate(stages if isinstance(stages, list) else ()):
            if not isinstance(stage, dict):
                raise UserError(f"{source}: stage.{index}: input should be a table, [[stage]]")
            if (kind := stage.get("kind", "train")) not in KINDS:
                given = f" = {json.dumps(kind)}" if isinstance(kind, str) else ""
                allowed = " or ".join(map(repr, KINDS))
                raise UserError(f"{source}: stage.{index}.kind{given}: input should be {allowed}")
        return super().read(data, source)

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        seen: list[str] = []
        for stage in self.stage:
            if stage.name in seen:
                raise ValueError(f"two stages are named {stage.name!r}; names must differ")
            named = {"from": stage.from_, "teacher": teacher_of(stage)}
            for key, name in named.items():
                if name is not None and name not in seen:
                    raise ValueError(
                        f"stage {stage.name!r}: {key} = {name!r} is no earlier stage "
                        f"(earlier: {', '.join(seen) or 'none'})"
                    )
            seen.append(stage.name)
        for name in self.scored:
            if name not in seen:
                raise ValueError(f"evaluate.stages: no stage is named {name!r}")
        return self

    def model_of(self, name: str, source: str = "") -> ModelConfig:
        """The model that a stage leaves; errors name `source`.

        Raises:
            UserError: the stage's changes make no model.
        """
        stage = next(stage for stage in self.stage if stage.name == name)
        model = self.model if stage.from_ is None else self.model_of(stage.from_)
        if stage.model:
            changed = _merged(model.model_dump(mode="json"), stage.model)
            model = ModelConfig.read(changed, f"{source}stage {name!r}: model")
        if isinstance(stage, FinetuneStage):
            model = model.model_copy(update={"formats": stage.weights})
        return model

    @property
    def scored(self) -> tuple[str, ...]:
        """The stages whose models are scored."""
        names = tuple(stage.name for stage in self.stage)
        if isinstance(self.evaluate.stages, tuple):
            return self.evaluate.stages
        return names if self.evaluate.stages == "all" else names[-1:]

    @property
    def corpora(self) -> tuple[CorpusConfig, ...]:
        """Every training part that any stage uses, each once."""
        found: list[CorpusConfig] = []
        for part in [*self.speech.train, *(c for s in self.stage for c in s.train or ())]:
            part = part.model_copy(update={"weight": 1.0})
            if part not in found:
                found.append(part)
        return tuple(found)


def teacher_of(stage: StageConfig) -> str | None:
    """The stage whose model teaches this one, if any."""
    if not isinstance(stage, FinetuneStage) or stage.teacher is False or not stage.audio_hours:
        return None
    return stage.teacher or stage.from_


def shipped() -> dict[str, Path]:
    """Name -> file of the recipes that come with the package."""
    folder = Path(str(resources.files("pocketscribe.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_recipe(recipe: str, changes: Sequence[str] = ()) -> Recipe:
    """Reads a recipe file or a shipped recipe's name, with `KEY=VALUE` changes on top.

    Raises:
        UserError: no such recipe, or a line that names file, key, value and what is allowed.
    """
    path = Path(recipe)
    if not path.is_file():
        if recipe not in shipped():
            raise UserError(
                f"recipe {recipe!r}: neither a file nor a shipped recipe "
                f"(shipped: {', '.join(shipped())})"
            )
        path = shipped()[recipe]
    try:
        data = _parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as TOML ({error})") from None
    for change in changes:
        _change(data, change)
    read = Recipe.read({"name": path.stem, **data}, path.name)
    models: list[ModelConfig] = []
    for stage in read.stage:
        config = read.model_of(stage.name, f"{path.name}: ")
        if config in models:
            continue
        models.append(config)
        if sum(model.encoder.layers for model in models) > MOST_LAYERS:
            raise UserError(f"{path.name}: its models have more than {MOST_LAYERS} layers in all")
        try:
            with torch.device("meta"):  # names and shapes, no numbers: sharing must fit the model
                Recogniser(config, vocabulary=30)
        except UserError as error:
            raise UserError(f"{path.name}: stage {stage.name!r}: {error}") from None
    return read


def _parsed(toml: str) -> dict[str, Any]:
    """Raises ValueError or RecursionError where it is no TOML, or would take minutes to read."""
    # Python's parser is quadratic in the parts of a dotted key.
    if len(toml) > LONGEST_RECIPE or max(map(len, toml.splitlines()), default=0) > LONGEST_LINE:
        raise ValueError(
            f"more than {LONGEST_RECIPE} characters, or {LONGEST_LINE} of them in a line"
        )
    return tomllib.loads(toml)


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with the values of `new`, table by table."""
    tables = {
        key: _merged(old[key], value)
        for key, value in new.items()
        if isinstance(value, dict) and isinstance(old.get(key), dict)
    }
    return {**old, **new, **tables}


def _change(data: dict[str, Any], change: str) -> None:
    """Applies `a.b.0.c=value`; the value is TOML, or a plain string where it is none."""
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
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    except (IndexError, ValueError, TypeError, AttributeError):
        raise UserError(f"--set {change}: the recipe has no place {key!r}") from None
