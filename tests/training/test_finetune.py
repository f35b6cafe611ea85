"""Fine-tuning under formats: it learns from its teacher, and goes on where it was killed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from killed import identical, killed_at, weights
from pocketscribe.models import Recogniser, start_from
from pocketscribe.speech.augment import AugmentConfig
from pocketscribe.speech.batches import TrainingBatches
from pocketscribe.training import candidates
from pocketscribe.training.distilled import Distilled
from pocketscribe.training.formatted import Formatted
from pocketscribe.training.loop import Training
from pocketscribe.training.masks import MaskConfig
from pocketscribe.training.objectives import LossConfig, Objective, Plain, StepContext
from pocketscribe.training.optimisers import OptimiserConfig
from pocketscribe.training.teacher import DistilConfig, Teacher
from pocketscribe.weights import FormatRule

Tiny = Callable[..., Recogniser]
Batches = Callable[..., TrainingBatches]
Train = Callable[..., Training]
LOSS = LossConfig(warmup_steps=0)
RULES = (
    FormatRule(match="subsampling.*", bits=8),
    FormatRule(match="*", bits=4, sparsity="2:4"),
)


@pytest.fixture
def under_formats(tiny: Tiny) -> Callable[..., Recogniser]:
    def build(teacher: Recogniser, rules: tuple[FormatRule, ...] = RULES) -> Recogniser:
        config = teacher.config.model_copy(update={"formats": rules})
        model = Recogniser(config, teacher.vocabulary)
        start_from(model, teacher)
        return model

    return build


def fine_tuned(
    model: Recogniser,
    teacher: Recogniser | None,
    masks: MaskConfig | None = None,
    distil: DistilConfig | None = None,
    sampled_bits: tuple[int, ...] = (),
) -> Formatted:
    objective: Objective = Plain(model, LOSS)
    if teacher is not None:
        objective = Distilled(objective, Teacher(teacher, distil or DistilConfig()))
    return Formatted(objective, masks or MaskConfig(), sampled_bits)


def test_it_starts_from_the_very_weights(tiny: Tiny, under_formats: Callable) -> None:
    teacher = tiny()
    model = under_formats(teacher)
    assert identical(weights(model), weights(teacher))
    weight = model.encoder.blocks[0].ffn1.up.weight
    assert not torch.equal(weight(), weight.stored)


def test_a_model_that_equals_its_teacher_has_nothing_to_learn(
    tiny: Tiny, batches: Batches, under_formats: Callable
) -> None:
    teacher = tiny()
    batch = next(iter(batches(AugmentConfig().at(0.0))))
    context = StepContext(0, teacher.config.chunks.streaming)
    same = fine_tuned(under_formats(teacher, ()), teacher)(batch, context)
    other = fine_tuned(under_formats(teacher), teacher)(batch, context)
    alone = fine_tuned(under_formats(teacher), None)(batch, context)
    assert same["distilled"].item() == pytest.approx(0, abs=1e-2)
    assert other["distilled"].item() > 1
    total = alone["loss"] + other["distilled"]
    torch.testing.assert_close(other["loss"].detach(), total.detach())
    assert "distilled" not in alone


def test_it_comes_nearer_to_its_teacher(
    tiny: Tiny, batches: Batches, train: Train, under_formats: Callable, tmp_path: Path
) -> None:
    teacher = tiny()
    before = weights(teacher)
    model = under_formats(teacher)
    # The teacher knows nothing, so transcripts pull elsewhere: they count for little here.
    distil = DistilConfig(lattice=100.0, ctc=100.0)
    objective = fine_tuned(model, teacher, MaskConfig(update="one_shot"), distil)
    batch = next(iter(batches(AugmentConfig().at(0.0))))
    context = StepContext(0, teacher.config.chunks.streaming)
    with torch.no_grad():
        first = objective(batch, context)["distilled"].item()
    optimiser = OptimiserConfig(lr=0.01, warmup_steps=0)
    train(
        model, batches(AugmentConfig().at(0.0)), tmp_path, objective=objective, optimiser=optimiser
    )
    model.eval()
    with torch.no_grad():
        last = objective(batch, context)["distilled"].item()
    assert last < 0.8 * first
    assert identical(weights(teacher), before)
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize(
    "masks",
    [
        MaskConfig(),
        MaskConfig(update="few_shots", shots=3, gradient="sr_ste"),
        MaskConfig(update="one_shot", gradient="straight_through"),
    ],
    ids=lambda masks: masks.update,
)
def test_a_killed_fine_tuning_goes_on_to_the_same_bits(
    tiny: Tiny,
    batches: Batches,
    train: Train,
    under_formats: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    masks: MaskConfig,
) -> None:
    """Frozen masks come back too: the kill comes after they were frozen."""
    monkeypatch.setattr(candidates, "AVERAGE_EVERY", 2)
    teacher = tiny()
    straight, broken, resumed = (under_formats(teacher) for _ in range(3))
    options = {"checkpoint_minutes": 0.0}
    done = train(
        straight,
        batches(),
        tmp_path / "a",
        objective=fine_tuned(straight, teacher, masks),
        **options,
    )
    kill = done.progress.step - 3
    with pytest.raises(KeyboardInterrupt):
        train(
            broken,
            killed_at(batches(), kill),
            tmp_path / "b",
            objective=fine_tuned(broken, teacher, masks),
            **options,
        )
    train(
        resumed, batches(), tmp_path / "b", objective=fine_tuned(resumed, teacher, masks), **options
    )
    assert identical(weights(resumed), weights(straight))
    for key, weight in straight.weights.stored.items():
        other = resumed.weights.stored[key].mask()
        assert (weight.mask() is None) == (other is None)
        assert other is None or torch.equal(other, weight.mask())


def test_widths_take_turns(tiny: Tiny, batches: Batches, under_formats: Callable) -> None:
    """Each step's loss is that of a model with all its grids of that width, or finer."""
    teacher = tiny()
    rules = (FormatRule(match="subsampling.*", bits=8), FormatRule(match="*", bits=2))
    model = under_formats(teacher, rules)
    objective = fine_tuned(model, None, sampled_bits=(8, 4))
    batch = next(iter(batches(AugmentConfig().at(0.0))))
    chunking = teacher.config.chunks.streaming
    found = [objective(batch, StepContext(step, chunking))["loss"].item() for step in range(4)]
    expected = []
    for bits in (2, 8, 4, 2):
        wide = (FormatRule(match="subsampling.*", bits=8), FormatRule(match="*", bits=bits))
        plain = Plain(under_formats(teacher, wide), LOSS)
        expected.append(plain(batch, StepContext(0, chunking))["loss"].item())
    assert found == pytest.approx(expected, rel=1e-6)
    assert len(set(found)) == 3
    assert model.encoder.blocks[0].ffn1.up.weight.grid.bits == 2  # the format's own again


def test_flips_are_told_where_there_are_masks(tiny: Tiny, under_formats: Callable) -> None:
    teacher = tiny()
    model = under_formats(teacher)
    objective = fine_tuned(model, None, MaskConfig(update="every_step"))
    assert objective.measures() == {"flipped": 0.0}
    with torch.no_grad():
        for weight in model.weights.stored.values():
            weight.stored.copy_(weight.stored.flip(1))
    assert 0.2 < objective.measures()["flipped"] < 0.8
    dense = under_formats(teacher, (FormatRule(match="*", bits=4),))
    assert fine_tuned(dense, None).measures() == {}


def test_the_teacher_is_asked_as_it_will_be_used(
    tiny: Tiny, batches: Batches, under_formats: Callable
) -> None:
    """Its dropout is off while the student's is on; so what it says is always the same."""
    teacher = tiny(dropout=0.5)
    objective = fine_tuned(under_formats(tiny(), ()), teacher).train()
    assert objective.model.training
    assert not any(module.training for module in teacher.modules())
    batch = next(iter(batches(AugmentConfig().at(0.0))))
    context = StepContext(0, teacher.config.chunks.streaming)
    with torch.no_grad():
        first, second = (objective(batch, context)["distilled"] for _ in range(2))
    assert torch.equal(first, second)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_each_divergence_counts_as_much_as_it_is_told_to(
    tiny: Tiny, batches: Batches, under_formats: Callable
) -> None:
    teacher = tiny()
    student = under_formats(teacher)
    batch = next(iter(batches(AugmentConfig().at(0.0))))
    context = StepContext(0, teacher.config.chunks.streaming)

    def distilled(lattice: float, ctc: float) -> float:
        config = DistilConfig(lattice=lattice, ctc=ctc)
        with torch.no_grad():
            found = fine_tuned(student, teacher, distil=config)(batch, context)
        return found["distilled"].item()

    lattice, ctc = distilled(1.0, 0.0), distilled(0.0, 1.0)
    assert lattice > 0.1 and ctc > 0.1 and abs(lattice - ctc) > 0.1
    assert distilled(2.0, 3.0) == pytest.approx(2 * lattice + 3 * ctc, rel=1e-4)
