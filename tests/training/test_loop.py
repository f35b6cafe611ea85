"""The one loop: it learns, it goes on where it was killed, it survives bad steps."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from killed import identical, killed_at, weights
from pocketscribe.errors import UserError
from pocketscribe.models import Recogniser
from pocketscribe.speech.augment import AugmentConfig
from pocketscribe.speech.batches import Batch, TrainingBatches
from pocketscribe.training import candidates, loop
from pocketscribe.training.candidates import BEST, HALF_WAY
from pocketscribe.training.fabric import make_fabric
from pocketscribe.training.loop import Training, TrainingConfig
from pocketscribe.training.objectives import LossConfig, Plain, StepContext
from pocketscribe.training.optimisers import OptimiserConfig

Tiny = Callable[..., Recogniser]
Batches = Callable[..., TrainingBatches]
Train = Callable[..., Training]
LOSS = LossConfig(warmup_steps=10)
ENDS = ["last", HALF_WAY, "mean of the last 60%", "mean of the last 30%"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 2, "audio_hours": 0.08, "optimiser": OptimiserConfig(kind="adamw")},
        {"precision": "bf16", "patience": 2, "validations": 4},
    ],
    ids=["scaled_adam", "adamw, two batches a step", "bf16, out of patience"],
)
def test_a_killed_training_goes_on_to_the_same_bits(
    tiny: Tiny,
    batches: Batches,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
) -> None:
    """Dropout, augmentation as it grows, chunking, schedule, moments, averages: all come back."""
    monkeypatch.setattr(candidates, "AVERAGE_EVERY", 2)
    monkeypatch.setattr(candidates, "AVERAGED_SHARES", (0.7, 0.3))
    monkeypatch.setattr(loop, "GROW_EVERY", 4)
    growing = AugmentConfig(grows=(100.0, 0.0))  # to 75% or so at the first look
    options = {"loss": LOSS, "checkpoint_minutes": 0.0, **options}
    straight, broken, resumed = (tiny(dropout=0.1) for _ in range(3))
    begun = weights(straight)

    def validate(model: Recogniser) -> dict[str, float]:
        """Worse the longer it trains, so that patience ends."""
        return {
            "wer": sum(float((p.detach() - begun[n]).norm()) for n, p in model.named_parameters())
        }

    done = train(straight, batches(growing), tmp_path / "straight", validate, **options)
    progress = done.progress
    assert progress.step >= 10 and progress.averaged and progress.growth > 0
    assert progress.chosen == (BEST if "patience" in options else "mean of the last 70%")
    assert progress.audio_seconds < 160 or "patience" not in options
    assert not identical(weights(straight), begun)

    save = Training._save
    with monkeypatch.context() as patch:
        # The last checkpoint is older than the kill.
        patch.setattr(Training, "_save", lambda self: self.progress.step == 6 and save(self))
        killed = killed_at(batches(growing), 13)
        with pytest.raises(KeyboardInterrupt):
            train(broken, killed, tmp_path / "broken", validate, **options)
    again = train(resumed, batches(growing), tmp_path / "broken", validate, **options)
    assert identical(weights(resumed), weights(straight))
    assert {**vars(again.progress), "wall_seconds": 0} == {**vars(progress), "wall_seconds": 0}
    # Killed while it replaced the last checkpoint: nothing is left to do but to choose.
    (tmp_path / "straight" / "checkpoint").rename(tmp_path / "straight" / ".checkpoint.1.old")
    last = tiny()
    train(last, killed_at(batches(growing), 0), tmp_path / "straight", validate, **options)
    assert identical(weights(last), weights(straight))


def test_training_lowers_the_loss(
    tiny: Tiny, batches: Batches, train: Train, tmp_path: Path
) -> None:
    model = tiny()
    plain = AugmentConfig().at(0.0)
    batch = next(iter(batches(plain)))
    context = StepContext(1000, model.config.chunks.streaming)
    before = Plain(model, LOSS)(batch, context)
    optimiser = OptimiserConfig(warmup_steps=10)
    train(model, batches(plain), tmp_path, audio_hours=0.12, loss=LOSS, optimiser=optimiser)
    after = Plain(model, LOSS)(batch, context)
    for name in ("pruned", "ctc"):
        assert after[name] < 0.7 * before[name], name


@pytest.mark.parametrize("best", ENDS)
def test_the_result_is_what_scores_best_on_dev(
    tiny: Tiny,
    batches: Batches,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    best: str,
) -> None:
    """The last weights, half way to them, or a mean of every so many steps of the last part."""
    monkeypatch.setattr(candidates, "AVERAGE_EVERY", 3)
    monkeypatch.setattr(candidates, "AVERAGED_SHARES", (0.6, 0.3))
    model, seen = tiny(), []
    original = Training._step

    def step(self: Training, *args: object) -> object:
        result = original(self, *args)
        share = self.progress.audio_seconds / (3600 * self.config.audio_hours)
        weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        seen.append((self.progress.step, share, weights))
        return result

    monkeypatch.setattr(Training, "_step", step)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    order = iter(ENDS)

    def validate(model: Recogniser) -> dict[str, float]:
        return {"wer": float(next(order) != best)}

    training = train(model, batches(), tmp_path, validate, trained=True, loss=LOSS)
    assert training.progress.chosen == best
    if best == "last":
        chosen = [seen[-1][2]]
    elif best == HALF_WAY:
        chosen = [start, seen[-1][2]]
    else:
        since = {"mean of the last 60%": 0.4, "mean of the last 30%": 0.7}[best]
        chosen = [found for at, share, found in seen if at % 3 == 0 and share >= since]
        assert len(chosen) == training.progress.averaged[best] >= 2
    for name, parameter in model.named_parameters():
        mean = torch.stack([snapshot[name] for snapshot in chosen]).mean(0)
        torch.testing.assert_close(parameter.detach(), mean, rtol=1e-5, atol=1e-6)


def test_augmentation_waits_for_the_loss(
    tiny: Tiny,
    batches: Batches,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None at first; more as soon as the CTC loss a label is below its share of the entropy."""
    monkeypatch.setattr(loop, "GROW_EVERY", 2)
    collate, grown = TrainingBatches._collate, {}

    def watched(self: TrainingBatches, step: int, cuts: list) -> Batch:
        grown[self.augmentation.grows[0]].append(self.growth)
        return collate(self, step, cuts)

    monkeypatch.setattr(TrainingBatches, "_collate", watched)
    for first in (1e-6, 1e6):
        grown[first] = []
        made = batches(AugmentConfig(grows=(first, 0.0)))
        train(tiny(), made, tmp_path / str(first), loss=LOSS)
    assert set(grown[1e-6]) == {0.0}
    assert grown[1e6][:2] == [0.0, 0.0] and set(grown[1e6][2:]) == {0.75}


def test_validations_come_at_even_distances(
    tiny: Tiny, batches: Batches, train: Train, tmp_path: Path
) -> None:
    seen = []

    def validate(model: Recogniser) -> dict[str, float]:
        assert not model.training
        seen.append(model)
        return {"wer": 1.0}

    model = tiny(dropout=0.1)
    train(model, batches(), tmp_path / "watched", validate, validations=4, loss=LOSS)
    assert seen == [model] * 4, "no averages in so few steps: nothing to choose from"
    other = tiny(dropout=0.1)
    train(other, batches(), tmp_path / "alone", loss=LOSS)
    assert identical(weights(model), weights(other)), "watching must change nothing"


@pytest.mark.parametrize(
    ("scores", "validations"),
    [([1.0], 3), ([2.0, 1.0], 4), ([1.0, 2.0, 0.5, 2.0, 0.5], 5)],
    ids=["never better", "better once", "better in time"],
)
def test_patience_ends_after_so_many_validations_without_a_better_score(
    tiny: Tiny,
    batches: Batches,
    train: Train,
    tmp_path: Path,
    scores: list[float],
    validations: int,
) -> None:
    """The last score comes again and again: as good as the best is not better."""
    said: list[float] = []

    def validate(model: Recogniser) -> dict[str, float]:
        said.append(scores[min(len(said), len(scores) - 1)])
        return {"wer": said[-1]}

    options = {"patience": 2, "validations": 8, "loss": LOSS}
    done = train(tiny(), batches(AugmentConfig().at(0.0)), tmp_path, validate, **options)
    assert done.progress.validations == validations
    assert done.progress.best == min(scores) and done.progress.stale == 2
    assert done.progress.audio_seconds < 160


def stepping(model: Recogniser, folder: Path, **options: object) -> Training:
    config = TrainingConfig(audio_hours=1.0, precision="float32", loss=LOSS, **options)
    fabric = make_fabric("float32", folder)
    return Training(fabric, model, Plain(model, LOSS), config, folder, lambda model: {})


def test_two_half_batches_make_the_step_of_a_whole_one(
    tiny: Tiny, batches: Batches, tmp_path: Path
) -> None:
    """Equal for halves with as many frames; else each batch weighs the same, not each frame."""
    batch = next(iter(batches(AugmentConfig().at(0.0))))
    frames = int(batch.frames.min())
    count = len(batch.frames) // 2

    def part(which: slice) -> Batch:
        lengths = torch.full_like(batch.frames[which], frames)
        labels = batch.labels[which].clamp(max=frames // 8)
        targets = batch.targets[which, : labels.max()]
        total = len(lengths) * frames
        return Batch(batch.features[which, :frames], lengths, targets, labels, 1.0, total)

    first, second, whole = (
        part(slice(*ends)) for ends in ((count,), (count, 2 * count), (2 * count,))
    )
    found = []
    for stream, accumulate in (([first, second], 2), ([whole], 1)):
        model = tiny()
        gradients: dict[str, Tensor] = {}
        training = stepping(model, tmp_path / str(accumulate), accumulate=accumulate)

        def keep(model: Recogniser = model, kept: dict[str, Tensor] = gradients) -> bool:
            kept.update({n: p.grad.clone() for n, p in model.named_parameters()})
            return True

        training._update = keep
        losses = training._step(iter(stream), 100.0)
        found.append((gradients, losses))
    (halves, half_losses), (once, once_losses) = found
    assert half_losses == pytest.approx(once_losses, rel=1e-4)
    torch.testing.assert_close(halves, once, rtol=1e-3, atol=1e-5)


def poisoned(batch: Batch) -> Batch:
    return replace(batch, features=batch.features * float("nan"))


def test_a_step_that_is_not_finite_is_skipped_and_counted(
    tiny: Tiny, batches: Batches, tmp_path: Path
) -> None:
    for kind in ("scaled_adam", "adamw"):
        model = tiny()
        optimiser = OptimiserConfig(kind=kind, warmup_steps=0)
        training = stepping(model, tmp_path / kind, optimiser=optimiser)
        batch = next(iter(batches(AugmentConfig().at(0.0))))
        before = weights(model)
        assert training._step(iter([poisoned(batch)]), 100.0) is None
        assert identical(weights(model), before)
        assert (training.progress.step, training.progress.skipped) == (1, 1)
        assert training._step(iter([batch]), 100.0) is not None
        assert training.progress.skipped == 1 and not identical(weights(model), before)
        assert all(t.isfinite().all() for t in weights(model).values())


@pytest.mark.parametrize(("bad_steps", "stops"), [(19, False), (20, True)])
def test_many_such_steps_in_a_row_stop_the_run(
    tiny: Tiny,
    batches: Batches,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bad_steps: int,
    stops: bool,
) -> None:
    original = loop.loader

    def bad(batches: TrainingBatches, workers: int) -> Iterator[Batch]:
        for index, batch in enumerate(original(batches, workers)):
            yield poisoned(batch) if 1 <= index <= bad_steps else batch

    monkeypatch.setattr(loop, "loader", bad)
    monkeypatch.setattr(loop, "GROW_EVERY", 2)  # what is skipped has no say in augmentation either
    options = {"audio_hours": 230 / 3600, "loss": LOSS}
    if stops:
        with pytest.raises(UserError, match="not finite for 20 steps in a row at step 21; lower"):
            train(tiny(), batches(AugmentConfig().at(0.0)), tmp_path, **options)
    else:
        done = train(tiny(), batches(AugmentConfig().at(0.0)), tmp_path, **options)
        assert done.progress.skipped == 19 < done.progress.step - 1


def test_adamw_takes_no_gradient_longer_than_its_limit(
    tiny: Tiny, batches: Batches, tmp_path: Path
) -> None:
    model = tiny()
    optimiser = OptimiserConfig(kind="adamw", warmup_steps=0)
    training = stepping(model, tmp_path, optimiser=optimiser)
    batch = next(iter(batches(AugmentConfig().at(0.0))))
    for factor, clipped in ((1e3, True), (1e-3, False)):
        seen: list[Tensor] = []

        def step(seen: list[Tensor] = seen) -> None:
            seen += [p.grad.flatten() for p in model.parameters() if p.grad is not None]

        loss = training.objective(batch, StepContext(0, model.config.chunks.streaming))["loss"]
        (loss / batch.total_frames * factor).backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        before = torch.cat(gradients).norm().item()
        training.optimiser.step = step
        assert training._update()
        limit = loop.MAX_GRADIENT_NORM if clipped else before
        assert torch.cat(seen).norm().item() == pytest.approx(limit, rel=1e-3)
        assert clipped == (before > loop.MAX_GRADIENT_NORM)


def test_dropout_follows_from_the_step(tiny: Tiny, batches: Batches, tmp_path: Path) -> None:
    """The same batch and weights: another step drops other numbers, the same step the same."""
    batch = next(iter(batches(AugmentConfig().at(0.0))))
    found = []
    for name, step, seed in (("a", 4, 0), ("b", 4, 0), ("c", 5, 0), ("d", 4, 1)):
        model = tiny(dropout=0.3)
        training = stepping(model, tmp_path / name, seed=seed)
        training.model.train()
        training.progress.step = step
        with torch.random.fork_rng():
            torch.manual_seed(len(found))  # what was drawn before must not matter
            drawn: list[Tensor] = []
            training._update = lambda drawn=drawn: drawn.append(torch.rand(8)) or True
            losses = training._step(iter([batch]), 100.0)
        assert losses is not None
        found.append((losses["loss"], drawn[0]))
    (first, noise), (again, same), (_, later), (_, reseeded) = found
    assert first == again and torch.equal(noise, same)
    assert not torch.equal(noise, later) and not torch.equal(noise, reseeded)
