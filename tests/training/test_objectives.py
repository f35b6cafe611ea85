"""What a step computes: sums of losses in nats, whatever the batch."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pocketscribe.losses import pruned_scales
from pocketscribe.models import Chunking, Recogniser
from pocketscribe.speech.augment import AugmentConfig
from pocketscribe.speech.batches import Batch, TrainingBatches
from pocketscribe.training.distilled import Distilled
from pocketscribe.training.objectives import (
    HEADS_ALONE,
    LossConfig,
    Objective,
    Plain,
    StepContext,
    draw_chunking,
)
from pocketscribe.training.supernet import Sandwich, SupernetConfig
from pocketscribe.training.teacher import DistilConfig, Teacher

Tiny = Callable[..., Recogniser]
KINDS = {
    "pruned": ("transducer", {"transducer": "pruned"}),
    "full": ("transducer", {"transducer": "full"}),
    "without ctc": ("transducer", {"transducer": "pruned", "ctc": 0.0}),
    "ctc alone": ("ctc", {}),
}
CONTEXT = StepContext(step=700, chunking=Chunking(4, 8))


@pytest.fixture
def batch(batches: Callable[..., TrainingBatches]) -> Batch:
    return next(iter(batches(AugmentConfig().at(0.0), batch_seconds=20.0)))


def part(batch: Batch, which: slice) -> Batch:
    """Some of a batch's utterances, padded no further than they need."""
    frames, labels = batch.frames[which], batch.labels[which]
    features = batch.features[which, : frames.max()]
    targets = batch.targets[which, : labels.max()]
    return Batch(features, frames, targets, labels, 0.0, int(frames.sum()))


def losses(
    tiny: Tiny, kind: str, batch: Batch, context: StepContext = CONTEXT
) -> dict[str, Tensor]:
    head, options = KINDS[kind]
    return Plain(tiny(head), LossConfig(**options))(batch, context)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("pruned", {"loss", "simple", "pruned", "ctc"}),
        ("full", {"loss", "transducer", "ctc"}),
        ("without ctc", {"loss", "simple", "pruned"}),
        ("ctc alone", {"loss", "ctc"}),
    ],
)
def test_losses_have_names_and_only_their_sum_has_a_gradient(
    tiny: Tiny, batch: Batch, kind: str, names: set[str]
) -> None:
    found = losses(tiny, kind, batch)
    assert found.keys() == names
    assert all(math.isfinite(x.item()) and x.item() > 0 for x in found.values())
    assert {name for name, x in found.items() if x.requires_grad} == {"loss"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_in_two_parts_sums_to_the_same(tiny: Tiny, batch: Batch, kind: str) -> None:
    assert len(batch.frames) >= 4
    whole = losses(tiny, kind, batch)
    first, second = (losses(tiny, kind, part(batch, s)) for s in (slice(0, 2), slice(2, None)))
    for name, value in whole.items():
        torch.testing.assert_close(first[name] + second[name], value, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_what_the_losses_use(tiny: Tiny, batch: Batch, kind: str) -> None:
    head, options = KINDS[kind]
    model = tiny(head)
    Plain(model, LossConfig(**options))(batch, CONTEXT)["loss"].backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    unused = {"full": "auxiliary.simple_", "without ctc": "auxiliary.ctc"}.get(kind)
    assert all(unused is not None and name.startswith(unused) for name in idle)
    assert bool(idle) == (unused is not None)


@pytest.mark.parametrize("step", [0, 500, 1000, 5000])
def test_the_pruned_loss_takes_over(tiny: Tiny, batch: Batch, step: int) -> None:
    config = LossConfig(warmup_steps=1000, ctc=2.0)
    found = Plain(tiny(), config)(batch, StepContext(step, Chunking(None)))
    simple, pruned = pruned_scales(step / 1000)
    expected = simple * found["simple"] + pruned * found["pruned"] + 2 * found["ctc"]
    torch.testing.assert_close(found["loss"].detach(), expected, rtol=1e-5, atol=1e-3)


def test_if_not_told_otherwise_it_has_taken_over_after_a_thousand_steps(
    tiny: Tiny, batch: Batch
) -> None:
    for step, simple, pruned in ((999, 0.5005, 0.9991), (1000, 0.5, 1.0), (1001, 0.5, 1.0)):
        found = Plain(tiny(), LossConfig(ctc=0.0))(batch, StepContext(step, Chunking(None)))
        assert found["loss"].item() == pytest.approx(
            simple * found["simple"].item() + pruned * found["pruned"].item(), rel=1e-5
        )


@pytest.mark.parametrize(
    ("options", "asks"),
    [
        ({"transducer": "pruned", "ctc": 0.0}, True),
        ({"transducer": "full", "ctc": 0.1}, True),
        ({"transducer": "full", "ctc": 0.0, "consistency": 0.1}, True),
        ({"transducer": "full", "ctc": 0.0}, False),
    ],
    ids=str,
)
def test_heads_are_asked_if_a_shipped_model_cannot_learn_so(
    tiny: Tiny, batch: Batch, options: dict[str, Any], asks: bool
) -> None:
    """A shipped model has none of the heads that only training needs."""
    shipped, config = tiny(), LossConfig(**options)
    shipped.auxiliary = torch.nn.ModuleDict()
    assert config.asks_heads == asks
    objective = Plain(shipped, config)
    if asks:
        with pytest.raises(KeyError):
            objective(batch, CONTEXT)
    else:
        objective(batch, CONTEXT)["loss"].backward()


def test_without_warm_up_the_scales_are_the_last_ones(tiny: Tiny, batch: Batch) -> None:
    begun = Plain(tiny(), LossConfig(warmup_steps=0))(batch, StepContext(0, Chunking(None)))
    ended = Plain(tiny(), LossConfig(warmup_steps=9))(batch, StepContext(9999, Chunking(None)))
    torch.testing.assert_close(begun, ended, rtol=0, atol=0)


def test_two_versions_of_an_utterance_teach_each_other(tiny: Tiny, batch: Batch) -> None:
    """CR-CTC: in each frame KL(other || this), whose gradient leaves the other alone."""
    noise = torch.randn(batch.features.shape, generator=torch.Generator().manual_seed(0))

    def twice(noise: Tensor) -> Batch:
        features = torch.cat([batch.features, batch.features + noise])
        frames, labels = batch.frames.repeat(2), batch.labels.repeat(2)
        return Batch(features, frames, batch.targets.repeat(2, 1), labels, 0.0, 1)

    model, config = tiny("ctc"), LossConfig(consistency=0.5)
    assert config.views == 2 and LossConfig().views == 1
    found = Plain(model, config)(twice(noise), CONTEXT)
    found["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    both = twice(noise)
    encoded, frames = model.encode(both.features, both.frames, CONTEXT.chunking)
    first, second = model.ctc_logits(encoded).log_softmax(-1).chunk(2)
    expected = encoded.new_zeros(())
    for b, length in enumerate(frames.tolist()[: len(first)]):
        for this, other in ((first, second), (second, first)):
            p, q = other[b, :length].detach(), this[b, :length]
            expected = expected + (p.exp() * (p - q)).sum()
    assert expected > 1, "a comparison of nothings"
    torch.testing.assert_close(found["consistency"], expected.detach(), rtol=1e-4, atol=1e-3)
    plain = Plain(model, LossConfig())(both, CONTEXT)
    (plain["loss"] + 0.5 * expected).backward()
    torch.testing.assert_close(found["ctc"], plain["ctc"])
    torch.testing.assert_close(found["loss"].detach(), plain["ctc"] + 0.5 * expected.detach())
    for name, p in model.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, rtol=1e-3, atol=1e-3, msg=name)

    same = Plain(model, config)(twice(torch.zeros_like(noise)), CONTEXT)
    assert same["consistency"].item() == pytest.approx(0, abs=1e-3)


def test_the_narrowest_window_is_two_wide(tiny: Tiny, batch: Batch) -> None:
    """A label and a blank a frame: fewer paths than in wider ones."""
    narrow, wide = (
        Plain(tiny(), LossConfig(pruned_width=width))(batch, CONTEXT)["pruned"] for width in (2, 5)
    )
    assert narrow > wide + 1
    with pytest.raises(ValidationError, match="pruned_width"):
        LossConfig(pruned_width=1)


def test_the_chunking_matters_and_is_drawn_from_seed_and_step(tiny: Tiny, batch: Batch) -> None:
    chunkings = tiny().config.chunks.chunkings
    assert chunkings == (Chunking(4, 8), Chunking(None))
    small, full = (losses(tiny, "full", batch, StepContext(0, c))["loss"] for c in chunkings)
    assert abs(small - full) > 1e-2
    drawn = [draw_chunking(chunkings, 3, step) for step in range(200)]
    assert drawn == [draw_chunking(chunkings, 3, step) for step in range(200)]
    assert drawn != [draw_chunking(chunkings, 4, step) for step in range(200)]
    assert 60 < drawn.count(Chunking(None)) < 140


@pytest.mark.parametrize("wrapped", ["distilled", "supernet"])
def test_nothing_else_moves_while_heads_learn_alone(tiny: Tiny, batch: Batch, wrapped: str) -> None:
    """Not by a teacher's losses, nor by gradients of zeros, which an optimiser would count."""
    model, loss = tiny(), LossConfig()
    objective: Objective = Plain(model, loss, alone=2)
    if wrapped == "distilled":
        objective = Distilled(objective, Teacher(tiny(), DistilConfig(nodes="all")))
    else:
        objective = Sandwich(model, loss, SupernetConfig(random=1), alone=2)
    for step, alone in ((1, True), (2, False)):
        model.zero_grad(set_to_none=True)
        for part in range(objective.passes):
            context = StepContext(step, Chunking(4, 8), part)
            objective(batch, context)["loss"].backward()
        objective.spare(step)
        moved = {name for name, p in model.named_parameters() if p.grad is not None}
        assert "auxiliary.ctc.weight" in moved
        assert all(name.startswith("auxiliary.") for name in moved) == alone


def test_heads_that_were_never_trained_learn_alone_first(tiny: Tiny, batch: Batch) -> None:
    """What a shipped model lacks is drawn by lot; until it has learnt, it moves nothing else."""
    for transducer, heads in (("pruned", "auxiliary."), ("full", "auxiliary.ctc")):
        for step, alone in ((0, True), (HEADS_ALONE - 1, True), (HEADS_ALONE, False)):
            model = tiny()
            loss = LossConfig(transducer=transducer)
            context = StepContext(step, Chunking(4, 8))
            Plain(model, loss, alone=HEADS_ALONE)(batch, context)["loss"].backward()
            moved = {name for name, p in model.named_parameters() if p.grad is not None}
            assert all(name.startswith(heads) for name in moved) == alone
            assert {name for name in model.state_dict() if name.startswith(heads)} <= moved
