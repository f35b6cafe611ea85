"""A stage with a teacher: what it is asked, what is learnt, and what is kept of its answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from killed import identical, killed_at, weights
from pocketscribe.errors import UserError
from pocketscribe.models import ChunkConfig, Recogniser
from pocketscribe.speech.augment import AugmentConfig
from pocketscribe.speech.batches import Batch, TrainingBatches
from pocketscribe.training.distilled import Distilled
from pocketscribe.training.kept import Kept
from pocketscribe.training.loop import Training
from pocketscribe.training.objectives import LossConfig, Plain, StepContext
from pocketscribe.training.teacher import DistilConfig, Teacher, check_lesson, check_teacher

Tiny = Callable[..., Recogniser]
Batches = Callable[..., TrainingBatches]
Train = Callable[..., Training]
LOSS = LossConfig(warmup_steps=0)
FORMS: dict[str, dict[str, Any]] = {
    "student": {},
    "teacher": {"nodes": "teacher"},
    "union": {"nodes": "union"},
    "path": {"nodes": "path"},
    "all": {"nodes": "all"},
    "full": {"classes": "full"},
    "occupancy": {"occupancy": True},
    "ctc alone": {"lattice": 0.0},
    "encoder": {"lattice": 0.0, "ctc": 0.0, "encoder": 1.0},
}
TWICE = AugmentConfig(versions=1, grows=(100.0, 50.0))  # grown from the first look on


def another(tiny: Tiny) -> Recogniser:
    """A model of the same shape with other weights, as if it had learnt something."""
    model = tiny()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model


def distilled(student: Recogniser, teacher: Recogniser, **config: Any) -> Distilled:
    torch.manual_seed(1)  # of the map between encoders
    return Distilled(Plain(student, LOSS), Teacher(teacher, DistilConfig(**config)))


@pytest.fixture
def batch(batches: Batches) -> Batch:
    return next(iter(batches(AugmentConfig().at(0.0))))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_nought_between_equals_and_teaches_others(
    tiny: Tiny, batch: Batch, form: str
) -> None:
    context = StepContext(0, tiny().config.chunks.streaming)
    student = tiny()
    found = distilled(student, another(tiny), **FORMS[form])(batch, context)
    assert found["distilled"].item() > 1
    assert not found["distilled"].requires_grad  # which is for the log alone
    plain = Plain(tiny(), LOSS)(batch, context)["loss"]
    torch.testing.assert_close(found["loss"], plain + found["distilled"], check_stride=False)
    found["loss"].backward()
    assert all(p.grad is not None for p in student.encoder.parameters())
    if form != "encoder":  # whose map is drawn at random
        same = distilled(tiny(), tiny(), **FORMS[form])(batch, context)
        assert same["distilled"].item() == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("form", ["student", "path", "encoder"])
def test_a_student_comes_nearer_to_its_teacher(
    tiny: Tiny, batches: Batches, train: Train, tmp_path: Path, batch: Batch, form: str
) -> None:
    student, teacher = tiny(), another(tiny)
    before = weights(teacher)
    # Transcripts pull elsewhere: they count for little here.
    heavy = dict.fromkeys(("lattice", "ctc", "encoder"), 100.0)
    config = {**FORMS[form], **{k: v for k, v in heavy.items() if FORMS[form].get(k, 1.0)}}
    config = config if form == "encoder" else {**config, "encoder": 0.0}
    objective = distilled(student, teacher, **config)
    context = StepContext(0, teacher.config.chunks.streaming)
    with torch.no_grad():
        first = objective(batch, context)["distilled"].item()
    train(student, batches(AugmentConfig().at(0.0)), tmp_path, objective=objective)
    student.eval()
    with torch.no_grad():
        last = objective(batch, context)["distilled"].item()
    assert last < 0.9 * first
    assert identical(weights(teacher), before)
    assert all(p.grad is None for p in teacher.parameters())


def test_a_killed_distillation_goes_on_to_the_same_bits(
    tiny: Tiny, batches: Batches, train: Train, tmp_path: Path
) -> None:
    """The map between the encoders, which never ships, comes back too."""
    objectives = [distilled(tiny(), another(tiny), encoder=1.0) for _ in range(3)]
    options = {"checkpoint_minutes": 0.0}
    straight, broken, resumed = (o.model for o in objectives)
    done = train(straight, batches(), tmp_path / "a", objective=objectives[0], **options)
    stream = killed_at(batches(), done.progress.step - 3)
    with pytest.raises(KeyboardInterrupt):
        train(broken, stream, tmp_path / "b", objective=objectives[1], **options)
    train(resumed, batches(), tmp_path / "b", objective=objectives[2], **options)
    assert identical(weights(resumed), weights(straight))
    maps = [o.to_teacher for o in (objectives[0], objectives[2])]
    assert torch.equal(maps[0].weight, maps[1].weight)
    assert not torch.equal(maps[0].weight, distilled(tiny(), tiny(), encoder=1.0).to_teacher.weight)


def test_a_teacher_of_full_context_hears_more(tiny: Tiny, batch: Batch) -> None:
    context = StepContext(0, tiny().config.chunks.streaming)
    same = distilled(tiny(), tiny())(batch, context)["distilled"]
    full = distilled(tiny(), tiny(), context="full")(batch, context)["distilled"]
    assert same.item() == pytest.approx(0, abs=1e-2) and full.item() > 0.1


@pytest.mark.parametrize("occupancy", [False, True])
def test_a_teacher_is_asked_in_the_windows_it_is_told_to(
    tiny: Tiny, batch: Batch, occupancy: bool
) -> None:
    teacher = another(tiny)
    context = StepContext(0, teacher.config.chunks.streaming)
    with torch.no_grad():
        mine, theirs = (Plain(m, LOSS).outputs(batch, context).pruned for m in (tiny(), teacher))
    assert mine is not None and theirs is not None
    assert not torch.equal(mine.contexts, theirs.contexts)
    both = torch.cat([mine.contexts, theirs.contexts], -1)
    windows = {"student": mine.contexts, "teacher": theirs.contexts, "union": both}
    for nodes, expected in windows.items():
        config = DistilConfig.read({"nodes": nodes, "occupancy": occupancy}, "test")
        said = Teacher(teacher, config)(batch, context.chunking, mine.contexts)
        assert said.nodes is not None
        assert torch.equal(said.nodes.contexts, expected), nodes


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
    for batch in (b for b, _ in zip(batches(TWICE), range(4), strict=False)):
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
    assert cache.teacher.calls <= asked + 2 and cache.asked > 0


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


@pytest.mark.parametrize(
    ("change", "distil", "line"),
    [
        ({"head": "ctc"}, {}, "has a ctc head, its student a transducer head"),
        ({"chunks": ChunkConfig(sizes=(8,), left=8)}, {}, "not trained in chunks of 4, full (it k"),
        (
            {"chunks": ChunkConfig(sizes=(4,), left=8)},
            {"context": "full"},
            "was not trained in chunks of full",
        ),
    ],
)
def test_a_teacher_that_cannot_teach_so(
    tiny: Tiny, change: dict[str, Any], distil: dict[str, Any], line: str
) -> None:
    student = tiny().config
    teacher = student.model_copy(update=change)
    with pytest.raises(UserError) as refused:
        check_lesson(teacher, student, DistilConfig(**distil), "large")
    assert line in str(refused.value) and "teacher 'large'" in str(refused.value)


def test_a_shipped_teacher_has_no_heads_of_training(tiny: Tiny) -> None:
    teacher = tiny()
    teacher.auxiliary = torch.nn.ModuleDict()
    check_teacher(teacher, DistilConfig(ctc=0.0), "it")
    with pytest.raises(UserError, match=r"teacher 'it' was saved without what training alone"):
        check_teacher(teacher, DistilConfig(), "it")
    check_teacher(tiny("ctc"), DistilConfig(), "it")
