"""The one training loop, on Lightning Fabric: a laptop's CPU, a GPU, or many of them by torchrun.

Everything random in step k follows from the seed and k, so a run that was killed goes on from its
last checkpoint to the same weights as one that was not.
"""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from pydantic import Field
from rich.progress import Progress as Bar
from torch import Tensor

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.files import restore_interrupted
from pocketscribe.models import Recogniser
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.augment import AugmentConfig
from pocketscribe.speech.batches import Batch, TrainingBatches, label_entropy, loader
from pocketscribe.training.candidates import Candidates
from pocketscribe.training.checkpoint import CHECKPOINT, Progress, load_checkpoint, save_checkpoint
from pocketscribe.training.objectives import LossConfig, Objective, StepContext, draw_chunking
from pocketscribe.training.optimisers import OptimiserConfig, build_optimiser, lr_factor

GROW_EVERY = 50  # steps between two looks at whether augmentation may grow
MOST_SKIPPED_IN_A_ROW = 20
LOG_FILE_EVERY = 100  # steps between two lines where the output is no terminal
MAX_GRADIENT_NORM = 5.0  # for AdamW; ScaledAdam clips by its own running median


class TrainingConfig(Config):
    """How long, how fast and on what a stage trains.

    Attributes:
        audio_hours: audio to hear in all, repetitions counted: what makes trainings comparable.
        batch_seconds: audio of one batch over all processes, padding included.
        optimiser, loss, augment: how it steps, what is made small, how speech is altered.
        accumulate: batches whose gradients are added up for one step.
        max_seconds: longer utterances are left out of training.
        precision: "auto" is bf16 where this machine multiplies it faster than float32.
        validations: how often in a run the dev parts are scored.
        patience: validations without a better score after which training ends; None goes on.
        checkpoint_minutes: time between checkpoints.
        seed: of everything random.
    """

    audio_hours: float = Field(gt=0)
    batch_seconds: float = Field(default=100.0, gt=1)
    accumulate: int = Field(default=1, ge=1)
    optimiser: OptimiserConfig = OptimiserConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    max_seconds: float = Field(default=20.0, gt=0)
    precision: Literal["auto", "float32", "bf16"] = "auto"
    validations: int = Field(default=10, ge=0)
    patience: int | None = Field(default=None, ge=1)
    checkpoint_minutes: float = Field(default=5.0, ge=0)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)  # times 2^32 it still is a 64-bit seed


class Training:
    """One stage's training: owns optimiser and progress, and knows nothing of what a loss is."""

    def __init__(
        self,
        fabric: Fabric,
        model: Recogniser,
        objective: Objective,
        config: TrainingConfig,
        folder: Path,
        validate: Callable[[Recogniser], dict[str, float]],
        *,
        trained: bool = False,
    ) -> None:
        """`validate` scores the model on dev data; its numbers go to the log.

        `trained` says that the model has been trained before this stage.
        """
        self.fabric, self.config, self.validate = fabric, config, validate
        self.folder = folder / CHECKPOINT
        self.model = model
        self.raw_objective = objective
        self.raw_optimiser = build_optimiser(config.optimiser, objective.named_parameters())
        self.objective, self.optimiser = fabric.setup(objective, self.raw_optimiser)
        self.candidates = Candidates(model, trained=trained)
        self.progress = Progress()
        self.goal = 3600 * config.audio_hours  # seconds to hear
        self.units = ""
        with fabric.rank_zero_first():
            restore_interrupted(self.folder)
        if self.folder.is_dir():  # loaded after `setup`, to where the model now is
            self.progress, found = load_checkpoint(
                self.folder, objective, model, self.raw_optimiser
            )
            self.candidates.kept = {name: t.to(fabric.device) for name, t in found.items()}

    def run(self, batches: TrainingBatches, bar: Bar, corpus_seconds: float) -> None:
        """Trains to the end; afterwards the model holds the weights that scored best on dev.

        Raises:
            UserError: the loss stays non-finite.
        """
        progress = self.progress
        task = bar.add_task("train", total=self.goal, completed=int(progress.audio_seconds))
        self.units = batches.units.to_json()
        self.entropy = label_entropy(batches.parts, batches.units)
        stream = self._stream(batches)
        started = time.monotonic() - progress.wall_seconds
        saved = time.monotonic()
        skipped_in_a_row = 0
        self.objective.train()
        while self._done < 1 and not self._out_of_patience():
            losses = self._step(stream, corpus_seconds)
            skipped_in_a_row = skipped_in_a_row + 1 if losses is None else 0
            if skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
                raise UserError(
                    f"{self.folder.parent}: the gradient was not finite for {skipped_in_a_row} "
                    f"steps in a row at step {progress.step}; lower the learning rate"
                )
            progress.wall_seconds = time.monotonic() - started
            if losses is not None and progress.step % 20 == 0:
                self._log(bar, task, losses)
            if (due := self._validations_due()) > progress.validations:
                progress.validations = due
                self._validate(bar)
            if progress.step % GROW_EVERY == 0 and self._grow(batches.augmentation, bar):
                stream = self._stream(batches)
            if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                self._save()
                saved = time.monotonic()
        self._save()
        score = partial(self._dev_score, bar=bar, log=False)
        progress.chosen = self.candidates.choose(score)
        bar.remove_task(task)

    @property
    def _done(self) -> float:
        """The share of this training that is behind it; 1 or a little more at its end."""
        return self.progress.audio_seconds / self.goal

    def _stream(self, batches: TrainingBatches) -> Iterator[Batch]:
        """The batches that are still to come, augmented as much as has been earned by now."""
        batches.skip = self.progress.step * self.config.accumulate
        batches.growth = self.progress.growth
        return loader(batches, workers=4 if self.fabric.device.type == "cuda" else 0)

    def _grow(self, augmentation: AugmentConfig, bar: Bar) -> bool:
        """Whether augmentation grows by what the last steps' loss has fallen to."""
        progress = self.progress
        if not progress.labels:
            return False
        loss = progress.label_nats / progress.labels / self.entropy
        progress.label_nats = progress.labels = 0.0
        growth = augmentation.growth(loss)
        if growth <= progress.growth:
            return False
        progress.growth = growth
        bar.console.print(f"step {progress.step}: augmentation at {growth:.0%}", highlight=False)
        return True

    def _step(self, stream: Any, corpus_seconds: float) -> dict[str, float] | None:
        """One optimiser step; None where the gradient was not finite and the step was skipped."""
        config, progress = self.config, self.progress
        factor = lr_factor(
            config.optimiser,
            step=progress.step,
            audio_seconds=progress.audio_seconds,
            epochs=progress.audio_seconds / corpus_seconds,
            progress=self._done,
        )
        lr = config.optimiser.base_lr * factor
        for group in self.raw_optimiser.param_groups:
            group["lr"] = lr
        self.raw_objective.begin(self._done, progress.before_seconds / self.goal)
        progress.before_seconds = progress.audio_seconds
        chunking = draw_chunking(self.model.config.chunks.chunkings, config.seed, progress.step)
        # Dropout follows from the step, and differs between processes.
        torch.manual_seed(
            (config.seed * 1_000_003 + progress.step) * 4096 + self.fabric.global_rank
        )
        sums: dict[str, Tensor] = {}
        for index in range(config.accumulate):
            batch: Batch = next(stream).to(self.fabric.device)
            # Sums over all processes' utterances, per frame of the global batch: DDP averages.
            scale = self.fabric.world_size * FACTOR / batch.total_frames / config.accumulate
            scale *= not batch.idle
            for part in range(self.raw_objective.passes):
                last = (index, part) == (config.accumulate - 1, self.raw_objective.passes - 1)
                context = StepContext(progress.step, chunking, part, config.seed)
                with self.fabric.no_backward_sync(self.objective, enabled=not last):
                    step_losses = self.objective(batch, context)
                    self.fabric.backward(step_losses["loss"] * scale)
                for name, value in step_losses.items():
                    sums[name] = sums.get(name, 0.0) + value.detach() * scale
                if part == 0:
                    self._tally(step_losses, batch)
            progress.audio_seconds += batch.seconds
        self.raw_objective.spare(progress.step)
        progress.step += 1
        if not self._update():
            progress.skipped += 1
            return None
        self.raw_objective.updated(lr)
        self.candidates.average(progress.step, self._done, progress.averaged)
        return {name: value.item() for name, value in sums.items()}

    def _update(self) -> bool:
        """Applies the gradients unless they are not finite; clears them."""
        parameters = [p for p in self.raw_objective.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        finite = math.isfinite(norm.item())
        if finite:
            if self.config.optimiser.kind == "adamw":
                torch.nn.utils.clip_grads_with_norm_(parameters, MAX_GRADIENT_NORM, norm)
            self.optimiser.step()
        self.optimiser.zero_grad()
        return finite

    def _validations_due(self) -> int:
        return min(int(self._done * self.config.validations), self.config.validations)

    def _validate(self, bar: Bar) -> None:
        """Scores the model; with patience, keeps the best weights so far."""
        progress = self.progress
        heard = f"step {progress.step}, {progress.audio_seconds / 3600:.1f} h heard"
        score = self._dev_score(heard, bar, log=True)
        if self.config.patience is None or score is None:
            return
        better = progress.best is None or score < progress.best
        progress.stale = 0 if better else progress.stale + 1
        if better:
            progress.best = score
            self.candidates.keep_best()

    def _dev_score(self, what: str, bar: Bar, *, log: bool) -> float | None:
        """Mean over the dev parts, the same in every process; None where there are none."""
        score = None
        if self.fabric.is_global_zero:
            self.model.eval()
            scores = self.validate(self.model)
            self.model.train()
            if scores:
                score = sum(scores.values()) / len(scores)
                shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
                bar.console.print(f"{what}: dev {shown}", highlight=False, markup=False)
            if log:
                named = {f"dev/{k}": v for k, v in scores.items()}
                self.fabric.log_dict(named, step=self.progress.step)
        return self.fabric.broadcast(score)

    def _out_of_patience(self) -> bool:
        return self.config.patience is not None and self.progress.stale >= self.config.patience

    def _log(self, bar: Bar, task: Any, losses: dict[str, float]) -> None:
        progress = self.progress
        rate = progress.audio_seconds / progress.wall_seconds
        shown = " ".join(f"{name} {value:.3f}" for name, value in losses.items() if name != "loss")
        line = f"train: step {progress.step}, {shown}, {rate:.0f} x real time"
        bar.update(task, completed=progress.audio_seconds, description=line)
        if not bar.console.is_terminal and progress.step % LOG_FILE_EVERY == 0:
            bar.console.print(line, highlight=False)
        learning = {
            "lr": self.raw_optimiser.param_groups[0]["lr"],
            "skipped": progress.skipped,
            **self.raw_objective.measures(),
        }
        self.fabric.log_dict(
            {**{f"train/{k}": v for k, v in losses.items()}, **learning}, step=progress.step
        )

    def _save(self) -> None:
        # No barrier: processes tell the time apart, and only this one writes.
        if self.fabric.is_global_zero:
            save_checkpoint(
                self.folder,
                self.raw_objective,
                self.model,
                self.candidates.kept,
                self.raw_optimiser,
                self.progress,
                self.units,
            )

    def _tally(self, losses: dict[str, Tensor], batch: Batch) -> None:
        """Adds up what says whether the network listens: nats and labels, over all processes."""
        nats = losses.get("ctc", losses["loss"]).detach()
        both = torch.stack([nats, batch.labels.sum().to(nats)]) * (not batch.idle)
        total: Any = self.fabric.all_reduce(both, reduce_op="sum")
        if total.isfinite().all():  # else the step is skipped, and this too
            self.progress.label_nats += total[0].item()
            self.progress.labels += total[1].item()
