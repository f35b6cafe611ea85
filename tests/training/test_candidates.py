"""Whose weights a training ends with, without a training. `test_loop` has it in one."""

from collections.abc import Callable

import pytest
import torch

from pocketscribe.models import Recogniser
from pocketscribe.training.candidates import (
    AVERAGE_EVERY,
    BEST,
    HALF_WAY,
    LAST,
    Candidates,
)

Tiny = Callable[..., Recogniser]


def weights(model: Recogniser) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(model: Recogniser) -> dict[str, torch.Tensor]:
    """The weights after a step of some training."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    return weights(model)


def test_an_average_is_the_mean_of_its_snapshots(tiny: Tiny) -> None:
    model, counts, snapshots = tiny(), {}, []
    found = Candidates(model, trained=False)
    for step in range(1, 5 * AVERAGE_EVERY + 1):
        now = moved(model)
        found.average(step, 0.65 if step <= AVERAGE_EVERY else 0.75, counts)
        if step % AVERAGE_EVERY == 0 and step > AVERAGE_EVERY:
            snapshots.append(now)
    assert counts == {"mean of the last 30%": 4}
    assert found.kept.keys() == {f"mean of the last 30%/{name}" for name in snapshots[0]}
    for key, mean in found.kept.items():
        expected = torch.stack([s[key.partition("/")[2]] for s in snapshots]).mean(0)
        torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("best", [LAST, HALF_WAY, BEST, None])
def test_the_best_on_dev_is_chosen(tiny: Tiny, best: str | None) -> None:
    """`None`: there is no dev part, and the last weights stay."""
    model = tiny()
    start, found = weights(model), Candidates(model, trained=True)
    middle = moved(model)
    found.keep_best()
    last = moved(model)
    chosen = found.choose(lambda which: None if best is None else float(which != best))
    assert chosen == (best or LAST)
    half = {name: (start[name] + last[name]) / 2 for name in last}
    wanted = {LAST: last, HALF_WAY: half, BEST: middle}[chosen]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), wanted[name])


def test_alone_the_last_weights_are_not_scored(tiny: Tiny) -> None:
    found = Candidates(tiny(), trained=False)
    assert found.choose(lambda which: pytest.fail(f"{which} was scored")) == LAST
