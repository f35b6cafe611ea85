"""A teacher's answers, kept: they are what was said, for the run that they were kept for."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from killed import identical, killed_at, weights
from lessons import FORMS, LOSS, another, distilled
from pocketscribe.errors import UserError
from pocketscribe.models import MELS, Recogniser
from pocketscribe.speech.augment import AugmentConfig
from pocketscribe.speech.batches import Batch, TrainingBatches
from pocketscribe.training import kept as room
from pocketscribe.training.distilled import Distilled
from pocketscribe.training.kept import Kept
from pocketscribe.training.loop import Training
from pocketscribe.training.objectives import Plain, StepContext
from pocketscribe.training.teacher import DistilConfig, Teacher

Tiny = Callable[..., Recogniser]
Batches = Callable[..., TrainingBatches]
Train = Callable[..., Training]
TWICE = AugmentConfig(versions=1, grows=(100.0, 50.0))  # grown from the first look on


class Counted(Teacher):
    calls = 0

    def forward(self, *args: Any) -> Any:
        self.calls += 1
        return super().forward(*args)


def kept(teacher: Recogniser, path: Path, made_by: str = "it", **config: Any) -> Kept:
    asked = {"nodes": "teacher", **config, "keep": True}
    return Kept(Counted(teacher, DistilConfig(**asked)), path, {"teacher": made_by})


@pytest.mark.parametrize("form", ["teacher", "path", "all", "full", "occupancy", "encoder"])
def test_what_is_kept_is_what_was_said(
    tiny: Tiny, batches: Batches, tmp_path: Path, form: str
) -> None:
    """In another batch, beside others, padded otherwise: within float16 of the teacher's answer."""
    teacher = another(tiny)
    config = {"nodes": "teacher", "ctc": 1.0, **FORMS[form]}
    cache = kept(teacher, tmp_path / "kept.sqlite", **config)
    fresh = Teacher(teacher, DistilConfig(**config))
    chunking = teacher.config.chunks.streaming
    for batch in (b for b, _ in zip(batches(TWICE), range(12), strict=False)):
        cache(batch, chunking, None)
    asked = cache.teacher.calls
    for batch in (b for b, _ in zip(batches(TWICE, 20.0), range(2), strict=False)):
        with torch.autocast("cpu", torch.bfloat16, enabled=form == "teacher"):
            here = cache(batch, chunking, None)  # read: mixed precision changes nothing
        there = fresh(batch, chunking, None)
        student = Plain(tiny(), LOSS).outputs(batch, StepContext(0, chunking))
        objective = distilled(tiny(), teacher, **config)
        losses = [objective._divergence(said, student, batch) for said in (here, there)]
        torch.testing.assert_close(*losses, rtol=5e-3, atol=1e-2)
    assert cache.teacher.calls == asked > 0, "nothing was new to it"


def test_a_later_epoch_does_not_run_the_teacher(
    tiny: Tiny, batches: Batches, tmp_path: Path
) -> None:
    cache = kept(tiny(), tmp_path / "kept.sqlite")
    chunking = tiny().config.chunks.streaming
    stream = list(zip(batches(TWICE), range(6), strict=False))
    for batch, _ in stream:
        cache(batch, chunking, None)
    calls = cache.teacher.calls
    again = kept(tiny(), tmp_path / "kept.sqlite")  # another process, another day
    for batch, _ in stream:
        again(batch, chunking, None)
    assert 0 < calls <= 6 and again.teacher.calls == 0
    assert again.measures() == {"kept": 1.0}
    again(stream[0][0], tiny().config.chunks.chunkings[1], None)
    assert again.teacher.calls == 1, "another chunking is another answer"
    full = kept(tiny(), tmp_path / "full.sqlite", context="full")
    for chunked in tiny().config.chunks.chunkings:
        full(stream[0][0], chunked, None)
    assert full.teacher.calls == 1, "a teacher of full context has but one answer"


def test_a_run_with_kept_answers_is_bit_for_bit_the_same_when_killed(
    tiny: Tiny, batches: Batches, train: Train, tmp_path: Path
) -> None:
    """What the killed run left on disk does not change what the next one learns."""

    def objective(name: str) -> Distilled:
        torch.manual_seed(1)
        return Distilled(Plain(tiny(), LOSS), kept(another(tiny), tmp_path / f"{name}.sqlite"))

    options = {"checkpoint_minutes": 1e9}  # nothing is saved before the kill: all is heard again
    straight, broken, resumed = objective("a"), objective("b"), objective("b")
    train(straight.model, batches(TWICE), tmp_path / "a", objective=straight, **options)
    stream = killed_at(batches(TWICE), 5)
    with pytest.raises(KeyboardInterrupt):
        train(broken.model, stream, tmp_path / "b", objective=broken, **options)
    train(resumed.model, batches(TWICE), tmp_path / "b", objective=resumed, **options)
    assert resumed.teacher.teacher.calls < straight.teacher.teacher.calls
    assert identical(weights(resumed.model), weights(straight.model))


def test_answers_of_another_teacher_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "kept.sqlite"
    kept(tiny(), path)
    with pytest.raises(UserError, match=r"kept.sqlite: kept of another teacher; delete the file"):
        kept(tiny(), path, made_by="other")
    path.write_bytes(b"no database at all, but long enough to look like one" * 50)
    with pytest.raises(UserError, match="not a file of kept answers"):
        kept(tiny(), path)


def test_a_file_that_fails_meanwhile(
    tiny: Tiny, batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that writes for too long, and a damage that is found late."""
    path, batch = tmp_path / "kept.sqlite", next(iter(batches(TWICE)))
    chunking = tiny().config.chunks.streaming
    monkeypatch.setattr(room, "WAIT_SECONDS", 0.01)
    cache, other = kept(tiny(), path), sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match=r"kept.sqlite: not writable now \(database is locked\)"):
        cache(batch, chunking, None)
    other.execute("ROLLBACK")
    cache(batch, chunking, None)
    other.execute("UPDATE said SET numbers = x'00ff00ff'")
    with pytest.raises(UserError, match=r"kept.sqlite: damaged; delete the file"):
        cache(batch, chunking, None)
    other.execute("DROP TABLE said")
    with pytest.raises(UserError, match=r"kept.sqlite: not readable now \(no such table"):
        cache(batch, chunking, None)


def test_a_teacher_that_is_kept_stays_out_of_training(tiny: Tiny, tmp_path: Path) -> None:
    """Its dropout would be in every answer that is kept."""
    cache = kept(tiny(dropout=0.5), tmp_path / "kept.sqlite")
    objective = Distilled(Plain(tiny(), LOSS), cache).train()
    assert objective.inner.training
    assert not any(module.training for module in cache.teacher.modules())


@pytest.mark.parametrize("nodes", ["teacher", "path", "all"])
def test_what_was_heard_beside_a_longer_target_is_found_beside_shorter_ones(
    tiny: Tiny, tmp_path: Path, nodes: str
) -> None:
    teacher = another(tiny)
    cache = kept(teacher, tmp_path / "kept.sqlite", nodes=nodes)
    fresh = Teacher(teacher, DistilConfig(nodes=nodes))
    chunking = teacher.config.chunks.streaming
    labels, frames = torch.tensor([2, 3, 20]), torch.full((3,), 160)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 160, MELS, generator=generator)
    targets = torch.randint(2, teacher.vocabulary, (3, 20), generator=generator)
    targets *= torch.arange(20) < labels[:, None]
    batch = Batch(features, frames, targets, labels, 1.0, 480, ("a", "b", "c"))
    cache(batch, chunking, None)
    short = Batch(features[:2], frames[:2], targets[:2, :3], labels[:2], 1.0, 320, batch.ids[:2])
    student = Plain(tiny(), LOSS).outputs(short, StepContext(0, chunking))
    objective = distilled(tiny(), teacher, nodes=nodes)
    said = (cache(short, chunking, None), fresh(short, chunking, None))
    losses = [objective._divergence(one, student, short) for one in said]
    torch.testing.assert_close(*losses, rtol=5e-3, atol=1e-2)
    assert cache.teacher.calls == 1
