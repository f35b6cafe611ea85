"""Rotary positions: scores depend on the distance alone.

H heads, S positions, E2 head width.
"""

import pytest
import torch
from torch import Tensor

from pocketscribe.models.rotary import rotate, rotation


def scores(query: Tensor, key: Tensor, length: int) -> Tensor:
    """[S, S] scores of one query and one key that stand at every position."""
    turn = rotation(length, query.numel(), query)
    at = (1, 1, length, query.numel())
    return (rotate(query.expand(at), turn) @ rotate(key.expand(at), turn).transpose(-1, -2))[0, 0]


def test_scores_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 16, generator=generator)
    score = scores(query, key, 40)
    for distance in range(-39, 40):
        diagonal = score.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=0)
    torch.testing.assert_close(score[0, 0], query @ key)  # at distance 0 nothing is turned
    assert score[0].std() > 0.5  # and the distance does matter
    assert not torch.allclose(score, score.T, atol=0.1)  # as does its direction


def test_rotation_keeps_lengths() -> None:
    x = torch.randn(2, 3, 50, 8)
    torch.testing.assert_close(rotate(x, rotation(50, 8, x)).norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("count", [0, 1, 5, 9])
def test_last_positions(count: int) -> None:
    turn = rotation(9, 8, torch.zeros(()))
    assert turn.cos.shape == (9, 4)
    for whole, part in zip(turn, turn.last(count), strict=True):
        assert torch.equal(whole[9 - count :], part)
