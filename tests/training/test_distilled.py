"""A stage with a teacher: what it is asked, what is learnt, and what is kept of its answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from killed import identical, killed_at, weights
from lessons import FORMS, LOSS, another, distilled
from pocketscribe.errors import UserError
from pocketscribe.models import ChunkConfig, Recogniser
from pocketscribe.speech.augment import AugmentConfig
from pocketscribe.speech.batches import Batch, TrainingBatches
from pocketscribe.training.loop import Training
from pocketscribe.training.objectives import Plain, StepContext
from pocketscribe.training.teacher import DistilConfig, Teacher, check_lesson, check_teacher

Tiny = Callable[..., Recogniser]
Batches = Callable[..., TrainingBatches]
Train = Callable[..., Training]


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
