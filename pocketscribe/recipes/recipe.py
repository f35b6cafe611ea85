"""A recipe is a list of stages: what is trained on what, in one TOML file."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from pocketscribe.config import Config, FileName
from pocketscribe.decoding.searcher import Width
from pocketscribe.errors import UserError
from pocketscribe.models import ModelConfig
from pocketscribe.models.subnets import taken
from pocketscribe.search.frontier import Point, TakeConfig
from pocketscribe.search.search import SearchConfig
from pocketscribe.speech.corpora import CorpusConfig
from pocketscribe.speech.units import UnitsConfig
from pocketscribe.training.cutting import CutConfig
from pocketscribe.training.loop import TrainingConfig
from pocketscribe.training.masks import MaskConfig
from pocketscribe.training.objectives import HEADS_ALONE
from pocketscribe.training.supernet import SupernetConfig
from pocketscribe.training.teacher import DistilConfig
from pocketscribe.weights import FormatRule


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
    """One stage: it trains one model, which it leaves in the run's folder.

    What a stage can say is independent of each other: where its weights come from, whom it learns
    from, in what formats it ships, how large its model is, and which smaller ones learn along.

    Attributes:
        audio_hours: 0 converts and trains nothing: post-training quantisation, for instance.
        from_: whose model and weights to start from (written `from` in TOML): an earlier stage's,
            another run's stage as "RECIPE/STAGE", or a file's.
        model: changes to that stage's model, or to the recipe's where there is no `from`: keys as
            in [model]. Trained weights are converted to a new sharing or rank.
        cut: what is kept of a larger model in `from`; without it sizes must not change.
        teacher: whose model to learn from beside the transcripts, named as in `from`.
        distil: what is learnt from it (arXiv 2210.00169).
        formats: rules, first match wins: in what bits and N:M sparsity each weight ships, and is
            trained (arXiv 2312.08553).
        masks: when N:M masks are taken, and what gradient the weights get that they leave out.
        sampled_bits: widths that take turns with the formats' own, so that one master weight
            serves them all: later stages of no hours take them out of it.
        supernet: which smaller sizes learn along (arXiv 2309.01947); a later stage takes one out by
            `cut = { layers = "first", units = "first" }`.
        search: among the sub-networks of a supernet, this stage's own or that in `from`, for the
            best of every size; what is found goes with the model, and `export --budget` takes it.
        take: what that search found under a budget: this stage's model, where `from` is larger with
            `cut = { layers = "first", units = "first" }`.
        train: corpora of this stage alone, in place of speech.train.
        heads_only: trains the heads that training alone needs (CTC, the simple joiner) and leaves
            the model as it is: makes a teacher of a shipped file, which lacks them.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    audio_hours: float = Field(ge=0)
    from_: str | None = Field(default=None, alias="from")
    model: dict[str, Any] = Field(default_factory=dict)
    cut: CutConfig | None = None
    teacher: str | None = None
    distil: DistilConfig = DistilConfig()
    formats: tuple[FormatRule, ...] | None = Field(default=None, min_length=1)
    masks: MaskConfig = MaskConfig()
    sampled_bits: tuple[Literal[8, 4], ...] = ()
    supernet: SupernetConfig | None = None
    search: SearchConfig | None = None
    take: TakeConfig | None = None
    train: tuple[CorpusConfig, ...] | None = None
    heads_only: bool = False

    @model_validator(mode="after")
    def _check(self) -> "StageConfig":
        if not self.audio_hours and self.from_ is None:
            raise ValueError("audio_hours = 0 needs from: the stage whose model is converted")
        if self.cut is not None and self.from_ is None:
            raise ValueError("cut needs from: the model of which it keeps a part")
        if self.distil != DistilConfig() and self.teacher is None:
            raise ValueError("distil needs a teacher")
        if self.heads_only and self.from_ is None:
            raise ValueError("heads_only needs from: the model whose heads are trained")
        if self.heads_only and not self.loss.asks_heads:
            raise ValueError("heads_only: this loss asks none of the heads that it would train")
        if self.heads_only and (self.cut or self.teacher or self.formats or self.supernet):
            raise ValueError(
                "heads_only leaves the model as it is: leave out cut, teacher, formats and supernet"
            )
        if self.take is not None and self.from_ is None:
            raise ValueError("take needs from: the supernet whose part it takes, or that part")
        if self.take is not None and self.cut is None and self.take.search == self.from_:
            raise ValueError(
                "take of the supernet in from needs cut = { layers = 'first', units = 'first' }"
            )
        if self.search is not None and self.supernet is None and self.from_ is None:
            raise ValueError("search needs sub-networks: supernet, or from: a supernet's stage")
        if self.teacher is None:
            return self
        if self.supernet is not None:
            raise ValueError(
                "a supernet's largest network teaches the others: leave teacher out, or supernet"
            )
        windows = self.distil.lattice and self.distil.nodes in ("student", "union")
        if windows and self.loss.transducer == "full":
            raise ValueError(
                f"distil.nodes = {self.distil.nodes!r} are the windows of the pruned loss: "
                "loss.transducer = 'pruned', or other nodes"
            )
        if self.distil.keep and self.augment.versions is None:
            raise ValueError(
                "distil.keep needs augment.versions: speech that is never heard twice alike is "
                "never found again"
            )
        return self

    @property
    def steps(self) -> float:
        """Of the optimiser, or nearly: what is padding is not known before."""
        return 3600 * self.audio_hours / (self.batch_seconds * self.accumulate)

    @property
    def trains_all_heads(self) -> bool:
        """Whether none of the heads that only training needs stays as it was drawn."""
        taught = self.taught_by is not None and self.distil.ctc > 0
        return self.loss.asks_all_heads or (self.loss.transducer == "pruned" and taught)

    def heads_alone(self, headed: bool) -> int:
        """Steps in which the heads that only training needs learn by themselves.

        `headed` says that the model in `from` has them. Theirs is a fifth of a training at most.
        """
        if not self.loss.asks_heads:
            return 0
        if self.heads_only:
            return sys.maxsize
        alone = self.from_ is not None and not headed
        return min(HEADS_ALONE, int(self.steps) // 5) if alone else 0

    @property
    def noise(self) -> CorpusConfig | None:
        """The recordings of noise that it mixes in, if it names some."""
        name = self.augment.noise
        return CorpusConfig(corpus=name, split="all") if name else None

    @property
    def taught_by(self) -> str | None:
        """Whose model teaches while this stage trains, if any's."""
        return self.teacher if self.audio_hours else None

    @property
    def stands_on(self) -> tuple[str, ...]:
        """The stages, of this run or another, whose models this one needs."""
        searched = self.take.search if self.take else None
        return tuple(name for name in (self.from_, self.taught_by, searched) if name is not None)


class EvaluateConfig(Config):
    """How models are scored.

    Attributes:
        beam: width of the beam search; 1 is greedy.
        stages: whose models are scored and shipped: the last one's, every one's, or those named.
    """

    beam: Width = 1
    stages: Literal["last", "all"] | tuple[str, ...] = "last"


class Recipe(Config):
    """A whole recipe. A run is one recipe file; its name is the file's.

    Attributes:
        changed: what `--set` changed in the file, so that the run can be repeated.
        speech: what is trained, chosen and scored on, and in which text units.
        model: of a stage that starts from nothing; each may change some of it.
        stage: in their order; one may build on any before it.
        evaluate: what is scored in the end, and how.
    """

    name: FileName
    changed: tuple[str, ...] = ()
    speech: SpeechConfig
    model: ModelConfig = ModelConfig()
    stage: tuple[StageConfig, ...] = Field(min_length=1, max_length=100)
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        seen: list[str] = []
        searching = {stage.name for stage in self.stage if stage.search is not None}
        for stage in self.stage:
            if stage.name in seen:
                raise ValueError(f"two stages are named {stage.name!r}; names must differ")
            named = {"from": stage.from_, "teacher": stage.taught_by}
            if stage.take is not None:
                named["take.search"] = stage.take.search
                if stage.take.search in seen and stage.take.search not in searching:
                    raise ValueError(
                        f"stage {stage.name!r}: take.search = {stage.take.search!r}: that stage "
                        "does not search"
                    )
            listens = stage.search is not None or (stage.cut is not None and stage.cut.listens)
            if listens and not self.speech.dev:
                raise ValueError(
                    f"stage {stage.name!r}: speech.dev is empty: a search, or a choice by loss, "
                    "needs speech to choose by"
                )
            for key, name in named.items():
                if name is not None and name not in seen and not is_outside(name):
                    raise ValueError(
                        f"stage {stage.name!r}: {key} = {name!r} is no earlier stage "
                        f"(earlier: {', '.join(seen) or 'none'}; another run's: RECIPE/STAGE)"
                    )
            seen.append(stage.name)
        check_apart(self.corpora, self.speech.test)
        for name in self.scored:
            if name not in seen:
                raise ValueError(f"evaluate.stages: no stage is named {name!r}")
        return self

    def model_of(
        self,
        name: str,
        outside: Callable[[str], ModelConfig],
        found: Callable[[TakeConfig], Point] | None = None,
    ) -> ModelConfig:
        """The model that a stage leaves; `outside` tells that of what `from` takes from elsewhere.

        `found` tells what a search found; before it has, a stage that takes it has the model of its
        `from`, than which it will be no larger.

        Raises:
            UserError: the stage's changes make no model; or as `outside`.
        """
        if is_outside(name):
            return outside(name)
        stage = next(stage for stage in self.stage if stage.name == name)
        model = self.model
        if stage.from_ is not None:
            model = self.model_of(stage.from_, outside, found)
        if stage.take is not None and found is not None:
            point = found(stage.take)
            model = taken(model, point.candidate.sizes)
            if stage.take.formats:
                model = model.model_copy(update={"formats": point.rules})
        if stage.model:
            changed = merged(model.model_dump(mode="json"), stage.model)
            model = ModelConfig.read(changed, f"stage {name!r}: model")
        if stage.formats is not None:
            model = model.model_copy(update={"formats": stage.formats})
        return model

    def needed(self, names: Sequence[str]) -> tuple[StageConfig, ...]:
        """The stages of these names and all that they stand on, in the recipe's order.

        Raises:
            UserError: there is no stage of a name.
        """
        stages = {stage.name: stage for stage in self.stage}
        for name in names:
            if name not in stages:
                raise UserError(f"{self.name} has no stage {name!r} (it has {', '.join(stages)})")
        found, left = set(names), list(names)
        while left:
            more = {n for n in stages[left.pop()].stands_on if not is_outside(n)} - found
            found |= more
            left += more
        return tuple(stage for stage in self.stage if stage.name in found)

    @property
    def first_outside(self) -> str | None:
        """The first model from elsewhere that a stage starts from: it brings the text units."""
        return next((s.from_ for s in self.stage if s.from_ and is_outside(s.from_)), None)

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


def check_apart(trained: Iterable[CorpusConfig], tested: Iterable[CorpusConfig]) -> None:
    """Raises ValueError where test speech is trained on."""
    tested = tuple(tested)
    for part in trained:
        for scored in tested:
            if part.shares_with(scored):
                raise ValueError(
                    f"speech.test: {scored.title!r} is trained on as {part.title!r}; its score "
                    "would tell nothing"
                )


def is_outside(name: str) -> bool:
    """Whether a model is taken from elsewhere: `from = "english/float"`, or a file's path."""
    return "/" in name or name.endswith((".safetensors", ".pocket"))


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with the values of `new`, table by table."""
    tables = {
        key: merged(old[key], value)
        for key, value in new.items()
        if isinstance(value, dict) and isinstance(old.get(key), dict)
    }
    return {**old, **new, **tables}
