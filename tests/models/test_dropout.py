"""Dropout with shared random numbers is still dropout."""

import pytest
import torch

from pocketscribe.models.dropout import Dropout


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.85])
def test_rate_and_mean_in_every_lane(p: float) -> None:
    """Eight elements share a 64-bit number: each of its bytes must be uniform."""
    y = Dropout(p)(torch.ones(8 * 50_000)).view(-1, 8)
    rate = (y == 0).float().mean(0)
    assert (rate - p).abs().max() < 0.01
    assert y.mean().item() == pytest.approx(1.0, abs=0.02)
    kept = y[y != 0]
    assert (kept == kept[0]).all() and kept[0].item() == pytest.approx(1 / (1 - p), rel=0.02)


def test_lanes_are_independent() -> None:
    kept = (Dropout(0.5)(torch.ones(8 * 50_000)).view(-1, 8) != 0).float()
    correlation = torch.corrcoef(kept.T) - torch.eye(8)
    assert correlation.abs().max() < 0.03


def test_evaluation_is_the_identity() -> None:
    x = torch.randn(5, 7)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5, 11), (0, 4)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    assert Dropout(0.5)(torch.ones(shape)).shape == shape


def test_follows_the_seed() -> None:
    x, layer = torch.randn(1000), Dropout(0.3)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(layer(x))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_gradient_passes_where_the_value_did() -> None:
    x = torch.randn(1000, requires_grad=True)
    y = Dropout(0.3)(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad * x, y)


def test_keeps_the_dtype() -> None:
    assert Dropout(0.3)(torch.ones(9, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_stays(dtype: torch.dtype) -> None:
    """The scale of p = 0.1 is 1.1130; bfloat16 has 1.1094 and 1.1172, which are 0.3% off."""
    x = 1 + torch.rand(400_000)
    y = Dropout(0.1)(x.to(dtype)).float()
    kept = y != 0
    torch.testing.assert_close(
        y[kept].sum() / x[kept].sum(), torch.tensor(256 / 230), rtol=3e-4, atol=0
    )
