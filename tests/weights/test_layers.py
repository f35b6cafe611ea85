"""Layers multiply by what `Weights` stored for them, and names decide what is stored.

B batch, T time, K kernel; I, O features in and out, R rank, V rows.
"""

import pytest
import torch

from pocketscribe.errors import UserError
from pocketscribe.weights import RankRule, Weights


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def rules(*pairs: tuple[str, int | None]) -> tuple[RankRule, ...]:
    return tuple(RankRule(match=match, rank=rank) for match, rank in pairs)


def test_linear_is_the_stored_matrix_and_bias() -> None:
    layer = Weights().linear("a", 5, 3)
    x = torch.randn(2, 4, 5)
    assert layer.bias is not None
    expected = torch.einsum("bti,oi->bto", x, layer.weight.stored) + layer.bias
    torch.testing.assert_close(layer(x), expected)
    assert Weights().linear("a", 5, 3, bias=False).bias is None


def test_biases_are_small_but_not_zero() -> None:
    bias = Weights().linear("a", 5, 64).bias
    assert bias is not None and bias.abs().min() > 0 and bias.abs().max() <= 0.02


def test_weights_are_drawn_as_torch_draws_them() -> None:
    stored = Weights().linear("a", 300, 200).weight.stored
    reference = torch.nn.Linear(300, 200).weight
    assert stored.std().item() == pytest.approx(reference.std().item(), rel=0.02)
    assert stored.abs().max() <= 300**-0.5


def test_embedding_looks_rows_up_and_negative_ids_are_zeros() -> None:
    layer = Weights().embedding("a", 7, 4)
    ids = torch.tensor([[3, -1], [0, -5]])
    rows = layer(ids)
    assert rows.shape == (2, 2, 4)
    torch.testing.assert_close(rows[:, 0], layer.weight.stored[[3, 0]])
    assert (rows[:, 1] == 0).all()
    rows.sum().backward()
    grad = layer.weight.stored.grad
    assert grad is not None
    # Row 0 was asked for once; the negative ids put nothing on it.
    assert (grad[[0, 3]] == 1).all() and (grad[[1, 2, 4, 5, 6]] == 0).all()


def test_embedding_rows_have_unit_variance_whatever_the_width() -> None:
    for width in (16, 256):
        stored = Weights().embedding("a", 4000, width).weight.stored
        assert stored.std().item() == pytest.approx(1.0, rel=0.02)


def test_depthwise_is_one_kernel_a_channel_and_pads_nothing() -> None:
    layer = Weights().depthwise("a", 3, 4)
    x = torch.randn(2, 9, 3)
    y = layer(x)
    assert y.shape == (2, 6, 3) and layer.bias is not None
    for t in range(6):
        expected = (x[:, t : t + 4] * layer.weight.stored.T).sum(1) + layer.bias
        torch.testing.assert_close(y[:, t], expected)


def test_rules_reach_the_layers() -> None:
    weights = Weights(rules(("low", 2)))
    low, plain = weights.linear("low", 6, 5), weights.linear("plain", 6, 5)
    assert plain.factor is None and plain.weight.stored.shape == (5, 6)
    assert low.factor is not None
    assert low.weight.stored.shape == (5, 2) and low.factor.stored.shape == (2, 6)


def test_one_name_is_one_stored_tensor_with_a_bias_a_layer() -> None:
    weights = Weights()
    first, second, other = (weights.linear(name, 6, 5) for name in ("a", "a", "b"))
    assert first.weight is second.weight and first.weight is not other.weight
    assert first.bias is not second.bias
    model = torch.nn.ModuleList([first, second])
    assert sum(p.numel() for p in model.parameters()) == 6 * 5 + 2 * 5
    x = torch.randn(3, 6)
    (first(x).sum() + second(x).sum()).backward()
    stored = first.weight.stored.grad
    assert stored is not None
    torch.testing.assert_close(stored, 2 * x.sum(0).expand(5, 6))


def test_one_name_shares_both_low_rank_factors() -> None:
    weights = Weights(rules(("*", 2)))
    first, second = weights.linear("a", 6, 5), weights.linear("a", 6, 5)
    assert first.weight is second.weight and first.factor is second.factor
    assert set(weights.stored) == {"a.u", "a.v"}


def test_sharing_two_shapes_is_refused() -> None:
    weights = Weights()
    weights.linear("a", 6, 5)
    with pytest.raises(UserError, match=r"a: cannot share the stored \(5, 6\) .* \(6, 5\)"):
        weights.linear("a", 5, 6)


def low_rank(fan_in: int, out: int, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U, V and the full draw that they stand for."""
    torch.manual_seed(1)
    full = Weights().linear("a", fan_in, out).weight.stored.detach()
    torch.manual_seed(1)
    layer = Weights(rules(("*", rank))).linear("a", fan_in, out)
    assert layer.factor is not None
    return layer.weight.stored.detach(), layer.factor.stored.detach(), full


def test_low_rank_multiplies_by_each_factor_in_turn() -> None:
    layer = Weights(rules(("*", 3))).linear("a", 6, 5)
    x = torch.randn(4, 6)
    assert layer.factor is not None
    matrix = layer.weight.stored @ layer.factor.stored
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, matrix, layer.bias))


@pytest.mark.parametrize(("fan_in", "out"), [(24, 16), (16, 24), (16, 16)])
def test_full_rank_starts_at_the_full_draw(fan_in: int, out: int) -> None:
    u, v, full = low_rank(fan_in, out, 16)
    torch.testing.assert_close(u @ v, full, atol=1e-5, rtol=1e-4)


def test_low_rank_starts_at_the_best_approximation_in_balance() -> None:
    u, v, full = low_rank(24, 16, 6)
    singular = torch.linalg.svdvals(full)
    # Eckart-Young: no matrix of rank 6 is nearer.
    distance = torch.linalg.matrix_norm(u @ v - full)
    torch.testing.assert_close(distance, singular[6:].square().sum().sqrt())
    for gram in (u.T @ u, v @ v.T):  # each factor carries the root of the singular values
        torch.testing.assert_close(gram, singular[:6].diag(), atol=1e-5, rtol=1e-4)


def test_a_rank_beyond_the_matrix_is_cut_to_it() -> None:
    u, v, full = low_rank(8, 5, 100)
    assert u.shape == (5, 5) and v.shape == (5, 8)
    torch.testing.assert_close(u @ v, full, atol=1e-5, rtol=1e-4)
