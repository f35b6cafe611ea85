"""The sandwich step: what each pass teaches, and that the sum of passes is what one would write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from killed import identical, killed_at, weights
from pocketscribe.models import Recogniser
from pocketscribe.models.subnets import extract
from pocketscribe.speech.augment import AugmentConfig
from pocketscribe.speech.batches import Batch, TrainingBatches
from pocketscribe.training.formatted import Formatted
from pocketscribe.training.loop import Training
from pocketscribe.training.masks import MaskConfig
from pocketscribe.training.objectives import LossConfig, Plain, StepContext
from pocketscribe.training.supernet import Sandwich, SupernetConfig, scale_dropout
from pocketscribe.weights import FormatRule

Tiny = Callable[..., Recogniser]
Batches = Callable[..., TrainingBatches]
LOSS = LossConfig(warmup_steps=0)
SIZES: dict[str, Any] = {"width": (8, 12), "heads": (1,), "inner": (16, 32), "joiner": (8,)}


def sandwich(model: Recogniser, **changes: Any) -> Sandwich:
    return Sandwich(model, LOSS, SupernetConfig(**{**SIZES, **changes}))


@pytest.fixture
def batch(batches: Batches) -> Batch:
    return next(iter(batches(AugmentConfig().at(0.0))))


def contexts(objective: Sandwich, step: int = 3) -> list[StepContext]:
    chunking = objective.model.config.chunks.streaming
    return [StepContext(step, chunking, part, 7) for part in range(objective.passes)]


def test_the_passes_of_a_step(tiny: Tiny, batch: Batch) -> None:
    """Largest, smallest, random ones: each on its transcripts as its own copy would be."""
    objective = sandwich(tiny(), distil="none").eval()
    assert objective.passes == 4
    chosen = [objective.chosen(context) for context in contexts(objective)]
    assert chosen[0] == objective.space.largest and chosen[1] == objective.space.smallest
    assert chosen[2:] == [objective.chosen(context) for context in contexts(objective)[2:]]
    others = [objective.chosen(context) for context in contexts(objective, 4)[2:]]
    assert chosen[2:] != others
    for sizes, context in zip(chosen, contexts(objective), strict=True):
        found = objective(batch, context)
        copy = extract(objective.model, objective.space.sub_config(sizes)).eval()
        expected = Plain(copy, LOSS)(batch, context)
        torch.testing.assert_close(found["loss"], expected["loss"])
        assert ("sub ctc" in found) == (context.part > 0)


def test_a_step_without_sub_networks_is_a_plain_step(tiny: Tiny, batch: Batch) -> None:
    model, same = tiny(), tiny()
    objective = Sandwich(model, LOSS, SupernetConfig(random=0, distil="none"))
    total = [objective(batch, context)["loss"] for context in contexts(objective)]
    sum(total).backward()
    Plain(same, LOSS)(batch, contexts(objective)[0])["loss"].backward()
    for one, other in zip(model.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(one.grad, 2 * other.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", ["alpha", "kl"])
def test_the_largest_teaches_in_place(tiny: Tiny, batch: Batch, kind: str) -> None:
    """It learns nothing from what it says itself; the others' loss is the divergence from it."""
    model = tiny()
    objective = sandwich(model, distil=kind, transcripts=0.0, random=0)
    first, second = contexts(objective)
    objective(batch, first)["loss"].backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    plain = Plain(tiny(), LOSS)(batch, first)["loss"]
    torch.testing.assert_close(objective(batch, first)["loss"], plain)
    found = objective(batch, second)
    torch.testing.assert_close(found["loss"].detach(), found["in place"])
    assert found["in place"].item() > 1
    found["loss"].backward()
    after = {name: p.grad for name, p in model.named_parameters()}
    assert any(not torch.equal(after[name], before[name]) for name in after)
    bias = "encoder.blocks.0.ffn1.up.bias"
    assert torch.equal(after[bias][16:], before[bias][16:]), "beyond the smallest nothing moves"
    assert not torch.equal(after[bias][:16], before[bias][:16])


def test_a_model_learns_nothing_from_itself(tiny: Tiny, batch: Batch) -> None:
    objective = Sandwich(tiny(), LOSS, SupernetConfig(random=0, transcripts=0.0))
    found = [objective(batch, context) for context in contexts(objective)]
    assert found[1]["in place"].item() == pytest.approx(0, abs=1e-2)


def test_narrow_modules_drop_less(tiny: Tiny) -> None:
    large = tiny(dropout=0.4)
    objective = sandwich(large)
    small = extract(large, objective.space.sub_config(objective.space.smallest))
    scale_dropout(small, large)
    block = small.encoder.blocks[0]
    assert block.ffn_dropout.p == pytest.approx(0.4 * 16 / 64)
    assert block.mixer_dropout.p == pytest.approx(0.4 / 2)
    assert block.convolution_dropout.p == pytest.approx(0.4 * 8 / 16)
    assert large.encoder.blocks[0].ffn_dropout.p == 0.4


def test_a_killed_supernet_goes_on_to_the_same_bits(
    tiny: Tiny, batches: Batches, train: Callable[..., Training], tmp_path: Path
) -> None:
    straight, broken, resumed = (sandwich(tiny(dropout=0.1)) for _ in range(3))
    options = {"checkpoint_minutes": 0.0, "audio_hours": 80 / 3600}
    done = train(straight.model, batches(), tmp_path / "a", objective=straight, **options)
    stream = killed_at(batches(), done.progress.step - 3)
    with pytest.raises(KeyboardInterrupt):
        train(broken.model, stream, tmp_path / "b", objective=broken, **options)
    train(resumed.model, batches(), tmp_path / "b", objective=resumed, **options)
    assert identical(weights(resumed.model), weights(straight.model))
    assert not identical(weights(straight.model), weights(tiny()))


@pytest.mark.parametrize("gradient", ["masked", "sr_ste"])
def test_sub_networks_are_pruned_as_the_largest_is(
    tiny: Tiny, batch: Batch, gradient: Literal["masked", "sr_ste"]
) -> None:
    """Densely at first, by groups that shrink, then by masks that stay: each pass on the slices."""
    rules = (FormatRule(match="*ffn*", bits=4, sparsity="2:4"),)
    model = Recogniser(tiny().config.model_copy(update={"formats": rules}), tiny().vocabulary)
    inner = sandwich(model, distil="none").eval()
    objective = Formatted(inner, MaskConfig(gradient=gradient))
    key = "encoder.blocks.0.ffn1.up"
    large = model.weights.stored[key]
    for done, pattern in ((0.0, None), (0.15, (3, 4)), (0.5, (2, 4)), (0.9, (2, 4))):
        objective.begin(done, done)
        with torch.no_grad():
            large.stored += torch.randn(large.stored.shape)  # masks that stay are others' by now
        for context in contexts(inner)[1:]:
            config = inner.space.sub_config(inner.chosen(context))
            objective(batch, context)
            small = inner._stand_in(config).plain.model.weights.stored[key]
            assert small.pattern == large.pattern == pattern
            assert small.prune_gradient == large.prune_gradient and small.grid == large.grid
            out, fan_in = small.stored.shape
            if done < 0.9:
                assert small.fixed_mask is large.fixed_mask is None
            else:
                assert large.fixed_mask is not None and small.fixed_mask is not None
                assert torch.equal(small.fixed_mask, large.fixed_mask[:out, :fan_in])
