"""When masks change, what they do to gradients and weights, and what remains in the end."""

from collections.abc import Callable

import pytest
import torch

from pocketscribe.models import Recogniser
from pocketscribe.training.masks import MaskConfig, Masks, scheduled, settle
from pocketscribe.weights import FormatRule, Weights
from pocketscribe.weights.sparsity import mask


def weights(sparsity: str = "2:4", **format: object) -> Weights:
    torch.manual_seed(1)
    rules = [FormatRule(match="sparse", sparsity=sparsity, **format), FormatRule(match="*", bits=4)]
    found = Weights(formats=rules)
    found.linear("sparse", 16, 8)
    found.linear("dense", 16, 8)
    return found


def of(made: Weights, **config: object) -> Masks:
    return Masks(made.stored, MaskConfig.read(config, "test"))


def test_scheduled_patterns_thin_out_group_by_group() -> None:
    patterns = [scheduled(done / 100, (1, 4)) for done in range(101)]
    assert patterns[:10] == [None] * 10 and patterns[10] == (3, 4), "from a tenth on"
    kept = [pattern[0] for pattern in patterns[10:] if pattern is not None]
    assert kept == sorted(kept, reverse=True) and set(kept) == {3, 2, 1}
    assert all(pattern == (1, 4) for pattern in patterns[34:])
    assert scheduled(0.5, None) is None


def test_schedule_freezes_for_the_last_third() -> None:
    made = weights()
    masks, weight = of(made), made.stored["sparse"]
    masks.begin(0.05, 0.0)
    assert weight.mask() is None
    masks.begin(0.5, 0.4)
    before = weight.mask()
    with torch.no_grad():
        weight.stored.copy_(weight.stored.flip(1))
    assert not torch.equal(weight.mask(), before)  # follows the magnitudes
    masks.begin(0.67, 0.66)
    frozen = weight.mask()
    with torch.no_grad():
        weight.stored.copy_(torch.randn_like(weight.stored))
    masks.begin(0.9, 0.8)
    assert torch.equal(weight.mask(), frozen)
    assert made.stored["dense"].mask() is None


def test_one_shot_never_looks_again() -> None:
    made = weights()
    masks, weight = of(made, update="one_shot"), made.stored["sparse"]
    first = mask(weight.stored, 2, 4)
    for done in (0.0, 0.5, 0.99):
        masks.begin(done, done)
        assert torch.equal(weight.mask(), first)
        with torch.no_grad():
            weight.stored.copy_(torch.randn_like(weight.stored))


def test_few_shots_look_so_often() -> None:
    made = weights()
    masks, weight = of(made, update="few_shots", shots=3), made.stored["sparse"]
    seen: list[torch.Tensor] = []
    steps = [k / 60 for k in range(60)]
    for before, done in zip([0.0, *steps], steps, strict=False):
        masks.begin(done, before)
        if not seen or not torch.equal(weight.mask(), seen[-1]):
            seen.append(weight.mask())
        with torch.no_grad():
            weight.stored.copy_(torch.randn_like(weight.stored))
    assert len(seen) == 3


def test_every_step_follows_the_magnitudes() -> None:
    made = weights()
    masks, weight = of(made, update="every_step"), made.stored["sparse"]
    for done in (0.0, 0.5, 0.99):
        masks.begin(done, done)
        assert torch.equal(weight.mask(), mask(weight.stored, 2, 4))
        with torch.no_grad():
            weight.stored.copy_(torch.randn_like(weight.stored))


@pytest.mark.parametrize("bits", [None, 4, 2])
def test_gradients_of_what_is_left_out(bits: int | None) -> None:
    for gradient, reaches in (("masked", False), ("straight_through", True), ("sr_ste", True)):
        made = weights(bits=bits)
        masks, weight = of(made, update="every_step", gradient=gradient), made.stored["sparse"]
        masks.begin(0.5, 0.4)
        pull = torch.randn_like(weight.stored)
        (weight() * pull).sum().backward()
        expected = pull if reaches else pull * weight.mask()
        torch.testing.assert_close(weight.stored.grad, expected)
        assert (weight() == 0)[~weight.mask()].all()


def test_sr_ste_decays_what_is_left_out_and_nothing_else() -> None:
    made = weights()
    masks, weight = of(made, gradient="sr_ste", decay=0.5), made.stored["sparse"]
    before = weight.stored.detach().clone()
    masks.begin(0.5, 0.4)
    masks.updated(lr=0.1)
    expected = torch.where(weight.mask(), before, before * 0.95)
    torch.testing.assert_close(weight.stored.detach(), expected)
    plain = of(made)
    plain.updated(lr=0.1)
    torch.testing.assert_close(weight.stored.detach(), expected)


def test_flips_are_counted() -> None:
    made = weights()
    masks, weight = of(made, update="every_step"), made.stored["sparse"]
    masks.begin(0.0, 0.0)
    assert masks.flipped() == 0.0
    with torch.no_grad():  # one group's first two places trade with its last two
        weight.stored[0, :4] = torch.tensor([4.0, 3.0, 1.0, 2.0])
    masks.flipped()
    with torch.no_grad():
        weight.stored[0, :4] = torch.tensor([1.0, 2.0, 4.0, 3.0])
    assert masks.flipped() == pytest.approx(4 / weight.stored.numel())
    assert masks.flipped() == 0.0


def test_settled_masks_follow_from_magnitudes(tiny: Callable[..., Recogniser]) -> None:
    """A frozen mask that magnitudes have left behind: zeros say in the end what it kept."""
    rules = (FormatRule(match="*.up", bits=4, sparsity="2:4"), FormatRule(match="*.down", bits=2))
    model = Recogniser(tiny().config.model_copy(update={"formats": rules}), 12)
    weight = model.encoder.blocks[0].ffn1.up.weight
    masks = of(model.weights, update="one_shot")
    masks.begin(0.0, 0.0)
    frozen = weight.mask()
    with torch.no_grad():
        weight.stored.copy_(weight.stored.flip(1))
    used = weight().detach()
    settle(model)
    assert weight.fixed_mask is None
    assert torch.equal(weight.mask(), frozen)
    assert torch.equal(weight().detach(), used)
    bias = model.encoder.blocks[0].ffn1.up.bias
    assert torch.equal(bias, bias.half().float())
