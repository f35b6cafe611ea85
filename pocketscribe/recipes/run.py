"""Walking a recipe: prepare the speech, run each stage once, score, and end with a table.

A run's folder: recipe.json (what was asked), taken.json (which models it took from elsewhere, with
their digests), units.json, <stage>/, NAME.safetensors (the last stage's model in float16, without
what training alone needs, or NAME.pocket: the file that is scored, with its scores on its card),
results.json and lock, which one process at a time holds.

A stage's: checkpoint/, which a stopped training goes on from, and teacher.sqlite, what a teacher
said, both while it trains; model.safetensors when it is done; TensorBoard's log; precision.json
(what "auto" came to), refused.json (what cannot be trained on), of a search search.json (what was
scored) and frontier.png.
"""

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console
from rich.progress import Progress as Bar
from torch import nn

from pocketscribe.config import read_bytes
from pocketscribe.device import choose_device
from pocketscribe.errors import UserError
from pocketscribe.evaluation.dev import Heard
from pocketscribe.evaluation.report import results_table
from pocketscribe.files import file_digest, read_json, write_json
from pocketscribe.models import ModelConfig, Recogniser, start_from, stored_parameters
from pocketscribe.models.saved import Saved, check_numbers, load_model, save_model, sketch
from pocketscribe.models.subnets import SpaceConfig
from pocketscribe.recipes.asked import Taken, alone, check_recipe, check_test_speech, keep_recipe
from pocketscribe.recipes.reading import Outside
from pocketscribe.recipes.recipe import Recipe, StageConfig, is_outside
from pocketscribe.recipes.shipping import card, score_and_ship
from pocketscribe.recipes.speech import Speech
from pocketscribe.search.frontier import Point, TakeConfig, frontier_of, within
from pocketscribe.search.search import Search, check_installed
from pocketscribe.speech.batches import Trainable, TrainingBatches, feature_statistics
from pocketscribe.speech.corpora import locate
from pocketscribe.speech.prepare import progress_bar
from pocketscribe.speech.units import Units
from pocketscribe.training.checkpoint import CHECKPOINT, Progress
from pocketscribe.training.cutting import cut_from
from pocketscribe.training.distilled import Distilled
from pocketscribe.training.fabric import (
    MeasuredPrecision,
    make_fabric,
    measured_precision,
    use_fitting_threads,
)
from pocketscribe.training.formatted import Formatted
from pocketscribe.training.kept import Kept
from pocketscribe.training.loop import Training
from pocketscribe.training.masks import settle
from pocketscribe.training.objectives import Objective, Plain
from pocketscribe.training.supernet import Sandwich
from pocketscribe.training.teacher import Teacher, check_teacher

LOCK = "lock"  # in a run's folder
KEPT = "teacher.sqlite"  # in a stage's, while it trains


@dataclass(frozen=True)
class Begun:
    """A stage's model before its first step.

    Attributes:
        before: what its card says of the stages that made it.
        headed: it came with the heads that only training needs, and these trained.
    """

    model: Recogniser
    before: list[dict[str, Any]]
    headed: bool = False


class Run:
    """One recipe in one folder. `go` does what is not yet done."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        root: Path | None,
        console: Console,
        device: str = "auto",
    ) -> None:
        """`root` is where the corpora lie; prepared speech is shared by the runs beside this one.

        Raises:
            UserError: the folder holds a run of another recipe.
        """
        self.recipe, self.folder, self.root = recipe, folder, root
        self.device = choose_device(device).type
        self.outside = Outside(folder.parent)
        # Under torchrun process 0 goes first where something is written; the others find it done.
        self.fabric = make_fabric("float32", folder, self.device)
        self.console = console if self.fabric.is_global_zero else Console(quiet=True)
        self._lock = FileLock(folder / LOCK)
        check_recipe(recipe, folder)

    def go(self, stages: Sequence[str] = ()) -> dict[str, Any]:
        """Runs what is left to run; returns the results, which also lie in results.json.

        Args:
            stages: trains these alone, and what they stand on, and scores them; all if not given.

        Raises:
            UserError: there is no stage of a name, another process is at this run, it is one of
                another recipe, or what it needs is not there.
        """
        check_test_speech(self.recipe, self.root)
        names = stages or [stage.name for stage in self.recipe.stage]
        self._check_there(names)  # before there is a folder
        scored = stages or self.recipe.scored
        with self._alone():
            self._train_left(names)
            with progress_bar(self.console) as bar, self.fabric.rank_zero_first():
                if self.fabric.is_global_zero:  # another test part may be asked for in the end
                    keep_recipe(self.recipe, self.folder)
                results = score_and_ship(self.recipe, scored, self.folder, self.root, bar)
        self.console.print(results_table(results))
        return results

    def _alone(self) -> AbstractContextManager[None]:
        """Raises UserError where another process (or torchrun's several) is at this run."""
        return alone(self._lock) if self.fabric.is_global_zero else nullcontext()

    def train(self, stages: Sequence[str]) -> None:
        """Trains what is not yet trained of these stages and of what they stand on.

        Raises:
            UserError: there is no stage of a name.
        """
        self._check_there(stages)
        with self._alone():
            self._train_left(stages)

    def _train_left(self, stages: Sequence[str]) -> None:
        needed, left = self.recipe.needed(stages), self._left(stages)
        self._sweep([stage for stage in needed if stage not in left])
        if not left:
            return
        with progress_bar(self.console) as bar:
            self._fetch(left)
            speech = Speech(
                self.recipe.speech, self.folder, self.root, self.fabric, self.console, bar
            )
            for corpus in self.recipe.corpora:
                speech.prepare(corpus)
            units = self._units(speech)
            if self.fabric.is_global_zero:
                keep_recipe(self.recipe, self.folder)
            for stage in left:
                self._train(stage, speech, units, bar)
                self._sweep([stage])

    def _left(self, stages: Sequence[str]) -> list[StageConfig]:
        needed = self.recipe.needed(stages)
        return [stage for stage in needed if not self._model_file(stage.name).is_file()]

    def _check_there(self, stages: Sequence[str]) -> None:
        """Tells what is missing for what is left to do, before any work."""
        left = self._left(stages)
        if left:
            for corpus in (*self.recipe.corpora, *self.recipe.speech.dev, *self.recipe.speech.test):
                locate(corpus, self.root)
        for stage in left:
            if stage.noise is not None:
                locate(stage.noise, self.root)
            if stage.search is not None:
                check_installed(stage.search)

    def _sweep(self, finished: Sequence[StageConfig]) -> None:
        """Removes what nobody goes on from: it takes ten times the models' room."""
        if self.fabric.is_global_zero:
            for stage in finished:
                shutil.rmtree(self.folder / stage.name / CHECKPOINT, ignore_errors=True)
                for file in (self.folder / stage.name).glob(f"{KEPT}*"):  # SQLite has three
                    file.unlink(missing_ok=True)

    def _units(self, speech: Speech) -> Units:
        """The text units of all stages, whichever are trained: of what the first starts from that
        starts elsewhere, if any does. That model need not be there yet: its run says which it will
        have.
        """
        first = self.recipe.first_outside

        def brought() -> Units:
            assert first is not None
            if (file := self.outside.file(first)) is not None:
                return Units.from_json(sketch(file).units, str(file))
            other, _ = self._other(first)
            return other._units(speech.of(other.recipe.speech, other.folder))

        return speech.units(self.recipe.corpora, brought if first else None)

    def _other(self, name: str) -> tuple["Run", str]:
        """The run beside this one that makes a model of another recipe, and its stage there."""
        recipe, stage = self.outside.maker(name)
        read = self.outside.recipe_of(name)
        return Run(read, self.folder.parent / recipe, self.root, self.console, self.device), stage

    def _fetch(self, stages: Sequence[StageConfig]) -> None:
        """Sees to the models that stages take from elsewhere; what is not there is trained first.

        Raises:
            UserError: a model is another one than when this run began, or two have other units.
        """
        outside = sorted({n for stage in stages for n in stage.stands_on if is_outside(n)})
        for name in outside:
            if self.outside.file(name) is None:
                self.console.print(
                    f"{self.recipe.name} takes {name}, which is trained first", markup=False
                )
                other, stage = self._other(name)
                other.train([stage])
        path = self.folder / "taken.json"
        before: dict[str, str] = {}
        if path.is_file():
            before = Taken.read({"models": read_json(path)}, str(path)).models
        taken = dict(before)
        for name in outside:
            found = file_digest(self._model_file(name))
            if taken.setdefault(name, found) != found:
                raise UserError(
                    f"{self.folder}: {name} is another model than when this run began; "
                    "choose another --out, or delete the folder to start anew"
                )
        if taken != before and self.fabric.is_global_zero:
            write_json(path, taken)

    def _model_file(self, stage: str) -> Path:
        """Where the model lies that a stage leaves, or that stages take from elsewhere."""
        if is_outside(stage) and (found := self.outside.file(stage)) is not None:
            return found
        return self.folder / stage / "model.safetensors"

    def _model_of(self, stage: str) -> ModelConfig:
        return self.recipe.model_of(stage, self.outside.config, found=self._found)

    def _found(self, take: TakeConfig) -> Point:
        """What an earlier stage's search found under a budget."""
        points = frontier_of(sketch(self._model_file(take.search)).card, take.search)
        return within(points, read_bytes(take.budget, "take.budget ="))[0]

    def _train(self, stage: StageConfig, speech: Speech, units: Units, bar: Bar) -> None:
        folder = self.folder / stage.name
        folder.mkdir(parents=True, exist_ok=True)
        usable = speech.trainable(stage, units)
        fabric = make_fabric(self._precision(stage), folder, self.device)
        fabric.seed_everything(stage.seed, verbose=False)
        begun = self._begin(stage, speech, units, usable)
        model = begun.model
        batches = TrainingBatches(
            usable,
            units,
            stage.augment,
            batch_seconds=stage.batch_seconds,
            seed=stage.seed,
            views=stage.loss.views,
            noise=speech.noise(stage),
            rank=fabric.global_rank,
            processes=fabric.world_size,
        )
        progress = Progress()
        if stage.audio_hours:
            objective = self._objective(stage, model, units, usable, begun.headed)
            training = Training(
                fabric,
                model,
                objective,
                stage,
                folder,
                speech.validation(units),
                trained=stage.from_ is not None,
            )
            training.run(batches, bar, sum(u.seconds for u in usable))
            progress = training.progress
            if not (begun.headed or stage.trains_all_heads):
                model.auxiliary = nn.ModuleDict()  # drawn by lot: nobody is to learn from them
        if model.config.formats:
            settle(model)
        check_numbers(model, str(folder))
        # Prepared by all processes together, searched by one.
        dev = speech.heard(stage.search.utterances) if stage.search is not None else []
        if fabric.is_global_zero:
            about = card(self.recipe.name, stage, model, usable, progress, begun.before)
            if stage.search is not None:
                found = self._search(stage, Saved(model.cpu(), units.to_json(), about), dev, bar)
                about["frontier"] = [point.model_dump(mode="json") for point in found]
            save_model(self._model_file(stage.name), Saved(model, units.to_json(), about))
        fabric.barrier()

    def _begin(
        self, stage: StageConfig, speech: Speech, units: Units, usable: Sequence[Trainable]
    ) -> Begun:
        """A stage's model before its first step."""
        model = Recogniser(self._model_of(stage.name), len(units))
        use_fitting_threads(stored_parameters(model))
        if stage.from_ is None:
            mean, std = feature_statistics(usable)
            model.mean.copy_(mean)
            model.inverse_std.copy_(1 / std)
            return Begun(model, [])
        start = self._load(stage.from_, units)
        if stage.cut is None:
            start_from(model, start.model)
        else:
            dev = speech.dev_batches(units) if stage.cut.listens else None
            cut_from(model, start.model, stage.cut, dev)
        headed = bool(start.model.auxiliary)
        if not headed and not stage.audio_hours:
            model.auxiliary = start.model.auxiliary  # none are better than untrained ones
        return Begun(model, start.stages, headed)

    def _search(
        self, stage: StageConfig, supernet: Saved, dev: Sequence[Heard], bar: Bar
    ) -> tuple[Point, ...]:
        """The frontier of a supernet, which says on its card what can be taken out of it."""
        spaces = [made["space"] for made in supernet.stages if "space" in made]
        if not spaces:
            raise UserError(
                f"stage {stage.name!r}: {stage.from_} has no sub-networks to search among; "
                "give supernet, or from: a stage that had it"
            )
        space = SpaceConfig.read(spaces[-1], f"{stage.from_}: its card: space")
        assert stage.search is not None
        units = Units.from_json(supernet.units, stage.name)
        folder = self.folder / stage.name
        return Search(supernet, space, stage.search, units, dev, folder, stage.seed).run(bar)

    def _precision(self, stage: StageConfig) -> str:
        """The stage's precision; what "auto" came to is kept, for a run goes on as it began."""
        if stage.precision != "auto":
            return stage.precision
        path = self.folder / stage.name / "precision.json"
        with self.fabric.rank_zero_first():
            if not path.is_file():
                width = self._model_of(stage.name).encoder.width
                found = measured_precision(width, stage.batch_seconds, self.device)
                write_json(path, found.model_dump())
        return MeasuredPrecision.read(read_json(path), str(path)).precision

    def _load(self, name: str, units: Units) -> Saved:
        """A stage's model. Raises UserError where it writes other units than this run."""
        path = self._model_file(name)
        saved = load_model(path)
        if Units.from_json(saved.units, str(path)).symbols() != units.symbols():
            raise UserError(
                f"{name}: writes other text units than this run; all its models need the same"
            )
        return saved

    def _objective(
        self,
        stage: StageConfig,
        model: Recogniser,
        units: Units,
        heard: Sequence[Trainable],
        headed: bool,
    ) -> Objective:
        """What the stage's steps compute: each word of a stage wraps round what is there."""
        alone = stage.heads_alone(headed)
        objective: Objective = Plain(model, stage.loss, alone=alone)
        if stage.supernet is not None:
            objective = Sandwich(model, stage.loss, stage.supernet, alone=alone)
        if (name := stage.taught_by) is not None:
            objective = Distilled(objective, self._teacher(stage, name, units, heard))
        if model.config.formats:
            objective = Formatted(objective, stage.masks, stage.sampled_bits)
        return objective

    def _teacher(
        self,
        stage: StageConfig,
        name: str,
        units: Units,
        heard: Sequence[Trainable],
    ) -> Teacher | Kept:
        model = self._load(name, units).model
        check_teacher(model, stage.distil, name)
        teacher = Teacher(model.to(self.fabric.device), stage.distil, stage.loss.pruned_width)
        if not stage.distil.keep:
            return teacher
        made_by = {
            "teacher": file_digest(self._model_file(name)),
            "speech": sorted(part.prepared.folder.name for part in heard),
            "distil": stage.distil.model_dump(exclude={"keep", "lattice", "ctc", "encoder"}),
            "augment": stage.augment.model_dump(mode="json"),
            "seed": stage.seed,
            "pruned_width": stage.loss.pruned_width,
        }
        with self.fabric.rank_zero_first():
            return Kept(teacher, self.folder / stage.name / KEPT, made_by)
