"""The matrix that a weight keeps follows all that it is made from, and is made once where asked."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pocketscribe.weights import FormatRule, Weights, compress, formatted_once, weight
from pocketscribe.weights.format import Format
from pocketscribe.weights.quantise import Grid
from pocketscribe.weights.weight import Weight, at_least


def sparse_int4() -> Weight:
    torch.manual_seed(0)
    return Weight("", 4, 8, 1.0, Format(bits=4, sparsity="2:4"))


def anew(of: Weight) -> torch.Tensor:
    """What it multiplies by, with nothing kept."""
    with torch.no_grad():
        return of._formatted()


def in_place(of: Weight) -> None:
    of.stored.mul_(2)


def by_data(of: Weight) -> None:
    of.stored.data = of.stored.data.flip(1).contiguous()


def mask_set(of: Weight) -> None:
    of.fixed_mask = torch.arange(8).expand(4, 8) % 2 == 0


def pattern_set(of: Weight) -> None:
    of.pattern = (1, 4)


def grid_set(of: Weight) -> None:
    of.grid = Grid(8)


def to_double(of: Weight) -> None:
    of.double()


@pytest.mark.parametrize(
    "change",
    [in_place, by_data, mask_set, pattern_set, grid_set, to_double],
    ids=lambda f: f.__name__,
)
@torch.no_grad()
def test_it_follows_whatever_changes(change: Callable[[Weight], None]) -> None:
    held = sparse_int4()
    first = held()
    assert held() is first, "kept"
    change(held)
    assert not (held().dtype == first.dtype and torch.equal(held(), first))
    assert torch.equal(held(), anew(held)) and held().dtype == held.stored.dtype
    if change is mask_set:
        held.fixed_mask.logical_not_()
        assert torch.equal(held(), anew(held)), "a mask changed in place"


@torch.no_grad()
def test_new_data_at_an_old_address_is_noticed() -> None:
    """Were the old tensor let go, the allocator would hand its memory out again."""
    held = sparse_int4()
    for k in range(20):
        held.stored.data = torch.full((4, 8), k + 1.0)
        torch.testing.assert_close(held().amax(), torch.tensor(k + 1.0), rtol=1e-3, atol=0)
        held.stored.data = torch.zeros(4, 8)


def test_what_inference_mode_made_can_be_trained_with() -> None:
    held = sparse_int4()
    with torch.inference_mode():
        first = held()
    with torch.no_grad():
        matrix = held()
    assert matrix is first
    x = torch.randn(3, 8, requires_grad=True)
    nn.functional.linear(x, matrix).sum().backward()
    assert x.grad is not None
    with torch.inference_mode():
        born_there = sparse_int4()
        before = born_there()
        born_there.stored.mul_(2)
        torch.testing.assert_close(born_there(), 2 * before, rtol=1e-3, atol=0)


def test_training_lets_go_of_what_is_kept() -> None:
    held = sparse_int4()
    with torch.no_grad():
        held()
    held()
    assert held._last is None


@pytest.mark.parametrize("gradient", ["masked", "straight_through"])
def test_formatted_once_gives_the_same_gradients(
    gradient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three layers on one tensor, two steps' worth of forwards, each with its own backward."""
    torch.manual_seed(0)
    weights = Weights(formats=[FormatRule(match="*", bits=4, sparsity="2:4")])
    layers = nn.ModuleList(weights.linear("a", 8, 8) for _ in range(3)).double()
    held = layers[0].weight
    held.prune_gradient = gradient
    made = []
    quantise = weight.fake_quantise
    monkeypatch.setattr(weight, "fake_quantise", lambda *a: made.append(1) or quantise(*a))

    def gradients(once: bool) -> tuple[list[torch.Tensor], int]:
        layers.zero_grad()
        made.clear()
        for seed in (1, 2):
            generator = torch.Generator().manual_seed(seed)
            y = torch.randn(5, 8, generator=generator, dtype=torch.float64)
            with formatted_once(weights.stored.values() if once else ()):
                for layer in layers:
                    y = layer(y).tanh()
                with torch.no_grad():  # a look at the side must not enter the graph
                    assert not layers[0](y).requires_grad
                y = layers[1](y)
            y.square().sum().backward()
        return [p.grad.clone() for p in layers.parameters()], len(made)

    expected, many = gradients(False)
    found, few = gradients(True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert (many, few) == (10, 6)
    assert held._last is None and not held.once
    with formatted_once([held]):
        with formatted_once([held]):
            first = held()
        assert held() is first, "an inner scope does not end the outer one"
        with at_least(8, [held]):
            assert not torch.equal(held(), first)


def test_formatted_once_in_a_model_that_is_not_ours() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(8, 16), "out": nn.Linear(16, 8, bias=False)})
    held = compress(model, [FormatRule(match="out", bits=4)])
    with formatted_once(held.values()):
        first = held["out"].matrix()
        assert held["out"].matrix() is first
