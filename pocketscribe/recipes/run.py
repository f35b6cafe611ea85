"""Walking a recipe: prepare the speech, run each stage once, score, and end with a table.

A run's folder: recipe.json (what was asked), taken.json (which models it took from elsewhere, with
their digests), units.json, <stage>/ (checkpoint/ while it trains,
model.safetensors when it is done, TensorBoard's log), NAME.safetensors (the last stage's model in
float16, without what training alone needs, or NAME.pocket: the file that is scored, with its scores
on its card) and results.json.
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress as Bar

from pocketscribe.decoding.offline import decode, with_tail
from pocketscribe.decoding.searcher import SearchConfig
from pocketscribe.errors import UserError
from pocketscribe.evaluation.evaluate import evaluate
from pocketscribe.evaluation.report import read_results, results_table
from pocketscribe.evaluation.wer import score, word_error_rate
from pocketscribe.export.open import TorchRuntime
from pocketscribe.files import read_json, write_json
from pocketscribe.models import ModelConfig, Recogniser, start_from, stored_parameters
from pocketscribe.models.saved import Saved, load_model, save_model, save_packed
from pocketscribe.recipes.reading import Outside, read_recipe
from pocketscribe.recipes.recipe import (
    FinetuneStage,
    Recipe,
    StageConfig,
    is_outside,
    teacher_of,
)
from pocketscribe.speech.batches import (
    Trainable,
    TrainingBatches,
    feature_statistics,
    trainable,
)
from pocketscribe.speech.corpora import CorpusConfig, items, locate
from pocketscribe.speech.held_out import HeldOut
from pocketscribe.speech.prepare import Prepared, prepare, progress_bar
from pocketscribe.speech.units import Units
from pocketscribe.training.checkpoint import Progress
from pocketscribe.training.loop import Training, make_fabric, measured_precision
from pocketscribe.training.masks import settle
from pocketscribe.training.objectives import FineTuned, Objective, Plain

VALIDATION_UTTERANCES = 100  # of each dev part, during training


class Run:
    """One recipe in one folder. `go` does what is not yet done."""

    def __init__(self, recipe: Recipe, folder: Path, root: Path | None, console: Console) -> None:
        """`root` is where the corpora lie; prepared speech is shared by the runs beside this one.

        Raises:
            UserError: the folder holds a run of another recipe.
        """
        self.recipe, self.folder, self.root = recipe, folder, root
        self.outside = Outside(folder.parent)
        # Under torchrun process 0 goes first where something is written; the others find it done.
        self.fabric = make_fabric("float32", folder)
        self.console = console if self.fabric.is_global_zero else Console(quiet=True)
        self._check_recipe()

    def go(self) -> dict[str, Any]:
        """Runs what is left to run; returns the results, which also lie in results.json."""
        self.train(self.recipe.stage[-1].name)
        with progress_bar(self.console) as bar, self.fabric.rank_zero_first():
            results = self._score(bar)
        self.console.print(results_table(results))
        return results

    def train(self, last: str) -> None:
        """Trains what is not yet trained, up to the stage `last`."""
        upto = next(i for i, stage in enumerate(self.recipe.stage) if stage.name == last)
        stages = self.recipe.stage[: upto + 1]
        left = [stage for stage in stages if not self._model_file(stage.name).is_file()]
        if not left:
            return
        self._take(left)
        with progress_bar(self.console) as bar:
            parts = self._prepare_all(bar)
            if self.fabric.is_global_zero:
                recipe = json.loads(self.recipe.model_dump_json(by_alias=True))
                write_json(self.folder / "recipe.json", recipe)
            for stage in left:
                self._train(stage, parts, bar)

    def _take(self, stages: Sequence[StageConfig]) -> None:
        """Sees to the models that stages take from elsewhere; what is not there is trained first.

        Raises:
            UserError: a model is another one than when this run began, or two have other units.
        """
        names = {name for s in stages for name in (s.from_, teacher_of(s)) if name is not None}
        outside = sorted(name for name in names if is_outside(name))
        for name in outside:
            if self.outside.file(name) is None:
                recipe, stage = self.outside.recipe(name)
                self.console.print(f"{self.recipe.name} takes {name}, which is trained first")
                read = read_recipe(recipe, (), self.folder.parent)
                Run(read, self.folder.parent / recipe, self.root, self.console).train(stage)
        path = self.folder / "taken.json"
        before = read_json(path) if path.is_file() else {}
        taken = dict(before)
        for name in outside:
            found = hashlib.sha256(self._model_file(name).read_bytes()).hexdigest()
            if taken.setdefault(name, found) != found:
                raise UserError(
                    f"{self.folder}: {name} is another model than when this run began; "
                    "choose another --out, or delete the folder to start anew"
                )
        if taken != before and self.fabric.is_global_zero:
            write_json(path, taken)

    def _check_recipe(self) -> None:
        path = self.folder / "recipe.json"
        if not path.is_file():
            return
        made, asked = Recipe.read(read_json(path), str(path)), self.recipe
        for key, same in {
            # What is scored may change, what was learnt from may not.
            "speech": made.speech.train == asked.speech.train
            and made.speech.units == asked.speech.units,
            "model": made.model == asked.model,
            "stage": made.stage == asked.stage,
        }.items():
            if not same:
                raise UserError(
                    f"{self.folder}: holds a run with another [{key}]; "
                    "choose another --out, or delete the folder to start anew"
                )

    def _model_file(self, stage: str) -> Path:
        """Where the model lies that a stage leaves, or that stages take from elsewhere."""
        if is_outside(stage) and (found := self.outside.file(stage)) is not None:
            return found
        return self.folder / stage / "model.safetensors"

    def _model_of(self, stage: str) -> ModelConfig:
        return self.recipe.model_of(stage, self.outside.config)

    def _prepare_all(self, bar: Bar) -> dict[str, Prepared]:
        """Every training part of every stage."""
        return {_key(corpus): self._prepare(corpus, bar) for corpus in self.recipe.corpora}

    def _prepare(self, corpus: CorpusConfig, bar: Bar) -> Prepared:
        out, share = self.folder.parent / "prepared", self.recipe.speech.bad_share
        with self.fabric.rank_zero_first():
            return prepare(
                corpus,
                self.root,
                out,
                bad_share=share,
                progress=bar,
                held_out=self._held_out,
            )

    @cached_property
    def _held_out(self) -> HeldOut:
        """What dev and test say; looking for it also tells early where a part is missing."""
        parts = (*self.recipe.speech.dev, *self.recipe.speech.test)
        scored = [part for part in parts if part.corpus != "synthetic"]
        found = (item.text for part in scored for item in items(part, locate(part, self.root)))
        return HeldOut(found)

    def _units(self, parts: Iterable[Prepared]) -> Units:
        path = self.folder / "units.json"
        with self.fabric.rank_zero_first():
            if path.is_file():
                return Units.read(path)
            started = [s.from_ for s in self.recipe.stage if s.from_ and is_outside(s.from_)]
            if started:  # a trained model brings its own
                saved = self._model_file(started[0])
                units = Units.from_json(load_model(saved).units, str(saved))
            else:
                texts = [cut.supervisions[0].text for part in parts for cut in part.cuts]
                units = Units.learn(texts, self.recipe.speech.units)
            units.write(path)
            return units

    def _train(self, stage: StageConfig, parts: dict[str, Prepared], bar: Bar) -> None:
        folder = self.folder / stage.name
        units = self._units(parts.values())
        chosen = stage.train or self.recipe.speech.train
        prepared = [Prepared(parts[_key(corpus)].folder, corpus) for corpus in chosen]
        usable = [trainable(part, units, stage.max_seconds) for part in prepared]
        self._list_refused(usable, folder)
        fabric = make_fabric(self._precision(stage), folder)
        fabric.seed_everything(stage.seed, verbose=False)
        model = Recogniser(self._model_of(stage.name), len(units))
        before: list[dict[str, Any]] = []
        if stage.from_ is not None:
            start = self._load(stage.from_, units)
            start_from(model, start.model)
            before = start.card.get("stages", [])
        else:
            mean, std = feature_statistics(usable)
            model.mean.copy_(mean)
            model.inverse_std.copy_(1 / std)
        batches = TrainingBatches(
            usable,
            units,
            stage.augment,
            batch_seconds=stage.batch_seconds,
            seed=stage.seed,
            views=stage.loss.views,
            rank=fabric.global_rank,
            processes=fabric.world_size,
        )
        progress = Progress()
        if stage.audio_hours:
            validate, objective = self._validation(units, bar), self._objective(stage, model, units)
            training = Training(fabric, model, objective, stage, folder, validate)
            training.run(batches, bar, sum(u.seconds for u in usable))
            progress = training.progress
        if isinstance(stage, FinetuneStage):
            settle(model)
        if fabric.is_global_zero:
            card = self._card(stage, model, usable, progress, before)
            save_model(self._model_file(stage.name), Saved(model, units.to_json(), card))
        fabric.barrier()

    def _precision(self, stage: StageConfig) -> str:
        """The stage's precision; what "auto" came to is kept, for a run goes on as it began."""
        if stage.precision != "auto":
            return stage.precision
        path = self.folder / stage.name / "precision.json"
        with self.fabric.rank_zero_first():
            if not path.is_file():
                width = self._model_of(stage.name).encoder.width
                write_json(path, measured_precision(width, stage.batch_seconds))
        return read_json(path)["precision"]

    def _load(self, name: str, units: Units) -> Saved:
        """A stage's model. Raises UserError where it writes other units than this run."""
        path = self._model_file(name)
        saved = load_model(path)
        if Units.from_json(saved.units, str(path)).symbols() != units.symbols():
            raise UserError(
                f"{name}: writes other text units than this run; all its models need the same"
            )
        return saved

    def _objective(self, stage: StageConfig, model: Recogniser, units: Units) -> Objective:
        """What the stage's steps compute."""
        plain = Plain(model, stage.loss)
        if not isinstance(stage, FinetuneStage):
            return plain
        name = teacher_of(stage)
        teacher = None if name is None else self._load(name, units).model
        return FineTuned(plain, teacher, stage.distil, stage.masks, stage.sampled_bits)

    def _list_refused(self, usable: Sequence[Trainable], folder: Path) -> None:
        """Raises UserError where more of a part is bad than speech.bad_share allows."""
        refused: dict[str, dict[str, str]] = {}
        for part in usable:
            if part.refused:
                refused.setdefault(part.prepared.config.title, {}).update(part.refused)
        listed, share = folder / "refused.json", self.recipe.speech.bad_share
        if refused and self.fabric.is_global_zero:
            count = sum(len(r) for r in refused.values())
            self.console.print(f"{count} utterances cannot be trained on: {listed}")
            write_json(listed, refused)
        for part in usable:
            found = part.bad + len(part.cuts)
            if part.bad > share * found:
                raise UserError(
                    f"corpus {part.prepared.config.title!r}: {part.bad} of {found} utterances "
                    f"cannot be trained on, more than {share:.0%}; mend those listed in {listed}; "
                    f"the first: {': '.join(part.refused[0])}"
                )

    def _validation(self, units: Units, bar: Bar) -> Callable[[Recogniser], dict[str, float]]:
        """Greedy WER of the first utterances of each dev part, under the streaming chunking."""
        sets = {}
        for corpus in self.recipe.speech.dev:
            cuts = list(self._prepare(corpus, bar).cuts.subset(first=VALIDATION_UTTERANCES))
            features = [with_tail(torch.from_numpy(c.load_features())) for c in cuts]
            sets[corpus.title] = (features, [c.supervisions[0].text for c in cuts])

        def validate(model: Recogniser) -> dict[str, float]:
            scores = {}
            for title, (features, texts) in sets.items():
                found = decode(model, features, model.config.chunks.streaming)
                scored = [
                    score(str(i), "", text, units.decode(h.labels))
                    for i, (text, h) in enumerate(zip(texts, found, strict=True))
                ]
                scores[f"wer {title}"] = word_error_rate(scored).wer
            return scores

        return validate

    def _card(
        self,
        stage: StageConfig,
        model: Recogniser,
        usable: Sequence[Trainable],
        progress: Progress,
        before: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        """What this model is, for the artefact's header and for people; scores join it later."""
        return {
            "recipe": self.recipe.name,
            "parameters": stored_parameters(model),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "made": time.strftime("%Y-%m-%d", time.gmtime()),
            "stages": [
                *before,
                {
                    "name": stage.name,
                    "trained_on": [_heard(part) for part in usable],
                    "audio_hours_heard": round(progress.audio_seconds / 3600, 2),
                    "steps": progress.step,
                    "skipped_steps": progress.skipped,
                    "weights": progress.chosen,
                    "wall_minutes": round(progress.wall_seconds / 60, 1),
                    "seed": stage.seed,
                },
            ],
        }

    def _score(self, bar: Bar) -> dict[str, Any]:
        """Ships the scored stages' models, and scores those files on each dev and test part, once.

        The results map a stage to its file's name, its chunking and its scores.
        """
        path, beam = self.folder / "results.json", self.recipe.evaluate.beam
        results: dict[str, Any] = {"recipe": self.recipe.name, "beam": beam, "models": {}}
        if path.is_file() and (old := read_results(path)).get("beam", beam) == beam:
            results = old
        for stage in self.recipe.scored:
            shipped = self._ship(stage)
            runtime = TorchRuntime(shipped, SearchConfig(beam=beam))
            model = results["models"].setdefault(
                stage, {"file": shipped.name, "chunk": str(runtime.chunking), "scores": {}}
            )
            for corpus in (*self.recipe.speech.dev, *self.recipe.speech.test):
                if corpus.title not in model["scores"]:
                    task = bar.add_task(f"score {stage} on {corpus.title}", total=None)
                    model["scores"][corpus.title] = evaluate(runtime, corpus, self.root)
                    bar.remove_task(task)
                    write_json(path, results)
            if _put_on_card(shipped, model["scores"]):
                write_json(path, results)
        return results

    def _ship(self, stage: str) -> Path:
        """The file that a stage's model ships in; the last stage's goes by the recipe's name."""
        last = stage == self.recipe.stage[-1].name
        name = self.recipe.name if last else f"{self.recipe.name}-{stage}"
        packed = bool(self._model_of(stage).formats)
        shipped = self.folder / f"{name}.{'pocket' if packed else 'safetensors'}"
        if not shipped.is_file():
            _write(shipped, load_model(self._model_file(stage)))
        return shipped


def _write(shipped: Path, saved: Saved) -> None:
    """In true bits where the model has formats, else in float16."""
    if saved.model.config.formats:
        save_packed(shipped, saved)
    else:
        save_model(shipped, saved, half=True)


def _put_on_card(shipped: Path, scores: dict[str, dict[str, Any]]) -> bool:
    """Writes the scores on the very file's card; whether that changed the size in the scores."""
    saved, keys = load_model(shipped), ("wer", "ci_low", "ci_high", "words")
    told = {title: {key: result[key] for key in keys} for title, result in scores.items()}
    if saved.card.get("scores") != told:
        saved.card["scores"] = told
        _write(shipped, saved)
    size = shipped.stat().st_size
    changed = any(result["bytes"] != size for result in scores.values())
    for result in scores.values():
        result["bytes"] = size
    return changed


def _heard(part: Trainable) -> dict[str, Any]:
    """A training part as the recipe names it, and how much of it there is."""
    config = part.prepared.config.model_dump(mode="json", exclude_defaults=True)
    return {**config, "hours": round(part.seconds / 3600, 3)}


def _key(corpus: CorpusConfig) -> str:
    """What a part's preparation depends on: all but its weight."""
    return corpus.model_copy(update={"weight": 1.0}).model_dump_json()
