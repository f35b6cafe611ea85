"""The one training loop, on Lightning Fabric: a laptop's CPU, a GPU, or many of them by torchrun.

Everything random in step k follows from the seed and k, so a run that was killed goes on from its
last checkpoint to the same weights as one that was not.
"""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger
from lightning_fabric.strategies import DDPStrategy
from pydantic import Field
from rich.progress import Progress as Bar

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.files import settle
from pocketscribe.models import Recogniser
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.augment import AugmentConfig
from pocketscribe.speech.batches import Batch, TrainingBatches, loader
from pocketscribe.training.checkpoint import (
    Progress,
    load_checkpoint,
    save_checkpoint,
    update_average,
)
from pocketscribe.training.objectives import LossConfig, Objective, StepContext, draw_chunking
from pocketscribe.training.optimisers import OptimiserConfig, build_optimiser, lr_factor

AVERAGE_EVERY = 10  # steps between two snapshots of the average
MOST_SKIPPED_IN_A_ROW = 20
LOG_FILE_EVERY = 100  # steps between two lines where the output is no terminal
MAX_GRADIENT_NORM = 5.0  # for AdamW; ScaledAdam clips by its own running median


class TrainingConfig(Config):
    """How long, how fast and on what a stage trains.

    Attributes:
        audio_hours: audio to hear in all, repetitions counted: what makes trainings comparable.
        batch_seconds: audio of one batch over all processes, padding included.
        accumulate: batches whose gradients are added up for one step.
        average_share: the last part of training whose weights are averaged into the result.
        max_seconds: longer utterances are left out of training.
        precision: "auto" is bf16 where the hardware multiplies it faster than float32.
        validations: how often in a run the dev parts are scored.
        checkpoint_minutes: time between checkpoints.
    """

    audio_hours: float = Field(gt=0)
    batch_seconds: float = Field(default=100.0, gt=1)
    accumulate: int = Field(default=1, ge=1)
    optimiser: OptimiserConfig = OptimiserConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    average_share: float = Field(default=0.25, ge=0, lt=1)
    max_seconds: float = Field(default=20.0, gt=0)
    precision: Literal["auto", "float32", "bf16"] = "auto"
    validations: int = Field(default=10, ge=0)
    checkpoint_minutes: float = Field(default=5.0, ge=0)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)  # times 2^32 it still is a 64-bit seed


def make_fabric(precision: str, folder: Path) -> Fabric:
    """One process, or this process' part of a torchrun job; its logger writes into `folder`."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    mode: Any = "bf16-mixed" if precision == "bf16" else "32-true"
    if precision == "auto" and fast_bf16():
        mode = "bf16-mixed"
    fabric = Fabric(
        accelerator="auto",
        strategy=DDPStrategy(find_unused_parameters=True) if processes > 1 else "auto",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        num_nodes=processes // int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        precision=mode,
        loggers=TensorBoardLogger(folder, name="", version=""),
    )
    fabric.launch()
    return fabric


def fast_bf16() -> bool:
    """Whether bf16 matrix products outrun float32 ones here: GPUs, and CPUs with AMX.

    Without AMX a CPU emulates bf16: measured at a quarter of float32's speed.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_amx_tile_supported()


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
    ) -> None:
        """`validate` scores the model on dev data; its numbers go to the log."""
        self.fabric, self.config, self.validate = fabric, config, validate
        self.folder = folder / "checkpoint"
        self.model = model
        self.raw_objective = objective
        self.raw_optimiser = build_optimiser(config.optimiser, objective.named_parameters())
        self.objective, self.optimiser = fabric.setup(objective, self.raw_optimiser)
        self.progress = Progress()
        self.average: dict[str, torch.Tensor] = {}
        self.units = ""
        with fabric.rank_zero_first():
            settle(self.folder)
        if self.folder.is_dir():  # loaded after `setup`, to where the model now is
            self.progress, average = load_checkpoint(self.folder, model, self.raw_optimiser)
            self.average = {name: t.to(fabric.device) for name, t in average.items()}

    def run(self, batches: TrainingBatches, bar: Bar, corpus_seconds: float) -> None:
        """Trains to the end; afterwards the model holds the averaged weights.

        Raises:
            UserError: the loss stays non-finite.
        """
        goal = self.config.audio_hours * 3600
        task = bar.add_task("train", total=goal, completed=int(self.progress.audio_seconds))
        self.units = batches.units.to_json()
        batches.skip = self.progress.step * self.config.accumulate
        stream = iter(loader(batches, workers=4 if self.fabric.device.type == "cuda" else 0))
        saved = started = time.monotonic() - self.progress.wall_seconds
        saved += self.progress.wall_seconds
        validated = self._validations_due()
        skipped_in_a_row = 0
        self.objective.train()
        while self.progress.audio_seconds < goal:
            losses = self._step(stream, corpus_seconds)
            skipped_in_a_row = skipped_in_a_row + 1 if losses is None else 0
            if skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
                raise UserError(
                    f"{self.folder.parent}: the gradient was not finite for {skipped_in_a_row} "
                    f"steps in a row at step {self.progress.step}; lower the learning rate"
                )
            self.progress.wall_seconds = time.monotonic() - started
            if losses is not None and self.progress.step % 20 == 0:
                self._log(bar, task, losses)
            if (due := self._validations_due()) > validated:
                validated = due
                self._validate(bar)
            if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                self._save()
                saved = time.monotonic()
        self._save()
        self._use_average()
        bar.remove_task(task)

    def _step(self, stream: Any, corpus_seconds: float) -> dict[str, float] | None:
        """One optimiser step; None where the gradient was not finite and the step was skipped."""
        config, progress = self.config, self.progress
        factor = lr_factor(
            config.optimiser,
            step=progress.step,
            audio_seconds=progress.audio_seconds,
            epochs=progress.audio_seconds / corpus_seconds,
            progress=progress.audio_seconds / (3600 * config.audio_hours),
        )
        lr = config.optimiser.base_lr * factor
        for group in self.raw_optimiser.param_groups:
            group["lr"] = lr
        goal = 3600 * config.audio_hours
        self.raw_objective.begin(progress.audio_seconds / goal, progress.before_seconds / goal)
        progress.before_seconds = progress.audio_seconds
        chunking = draw_chunking(self.model.config.chunks.chunkings, config.seed, progress.step)
        # Dropout follows from the step, and differs between processes.
        torch.manual_seed(
            (config.seed * 1_000_003 + progress.step) * 4096 + self.fabric.global_rank
        )
        losses: dict[str, float] = {}
        for index in range(config.accumulate):
            batch: Batch = next(stream).to(self.fabric.device)
            # Sums over all processes' utterances, per frame of the global batch: DDP averages.
            scale = self.fabric.world_size * FACTOR / batch.total_frames / config.accumulate
            scale *= not batch.idle
            last = index == config.accumulate - 1
            with self.fabric.no_backward_sync(self.objective, enabled=not last):
                step_losses = self.objective(batch, StepContext(progress.step, chunking))
                self.fabric.backward(step_losses["loss"] * scale)
            for name, value in step_losses.items():
                losses[name] = losses.get(name, 0.0) + value.item() * scale
            progress.audio_seconds += batch.seconds
        progress.step += 1
        if not self._update():
            progress.skipped += 1
            return None
        self.raw_objective.updated(lr)
        done = progress.audio_seconds / (3600 * config.audio_hours)
        if done >= 1 - config.average_share and progress.step % AVERAGE_EVERY == 0:
            progress.averaged += 1
            update_average(self.average, self.model, progress.averaged)
        return losses

    def _update(self) -> bool:
        """Applies the gradients unless they are not finite; clears them."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        finite = math.isfinite(norm.item())
        if finite:
            if self.config.optimiser.kind == "adamw":
                torch.nn.utils.clip_grads_with_norm_(parameters, MAX_GRADIENT_NORM, norm)
            self.optimiser.step()
        self.optimiser.zero_grad()
        return finite

    def _validations_due(self) -> int:
        share = self.progress.audio_seconds / (3600 * self.config.audio_hours)
        return min(int(share * self.config.validations), self.config.validations)

    def _validate(self, bar: Bar) -> None:
        if self.fabric.is_global_zero:
            self.model.eval()
            scores = self.validate(self.model)
            self.fabric.log_dict(
                {f"dev/{k}": v for k, v in scores.items()}, step=self.progress.step
            )
            shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            heard = f"{self.progress.audio_seconds / 3600:.1f} h heard"
            bar.console.print(f"step {self.progress.step}, {heard}: dev {shown}", highlight=False)
            self.model.train()
        self.fabric.barrier()

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
                self.model,
                self.average,
                self.raw_optimiser,
                self.progress,
                self.units,
            )

    def _use_average(self) -> None:
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in self.average:
                    parameter.copy_(self.average[name])
