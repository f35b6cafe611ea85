"""The frontier is what brute force finds, and evolution gets there in a tenth of the space."""

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from large import large
from pocketscribe.models.subnets import Sizes, Space, SpaceConfig
from pocketscribe.search.evolution import Evolution
from pocketscribe.search.frontier import Candidate, Costs, best, frontier, near

TUPLES = st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=30)


def candidate(number: int) -> Candidate:
    sizes = dict.fromkeys(("layers", "width", "heads", "rank", "predictor", "joiner"), number)
    return Candidate(sizes=Sizes(inner=(), **sizes), formats="")


@given(TUPLES)
def test_frontier_against_its_definition(costs: list[tuple[int, ...]]) -> None:
    named = {candidate(i): cost for i, cost in enumerate(costs)}

    def better(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    expected = {cost for cost in costs if not any(better(other, cost) for other in costs)}
    found = [named[c] for c in frontier(named)]
    assert set(found) == expected
    assert len(found) == len(expected)  # of equals, one
    assert found == sorted(found)


def test_best_for_its_bytes_or_for_its_time() -> None:
    costs: dict[Candidate, Costs] = {
        candidate(0): (0.1, 300, 3.0),
        candidate(1): (0.2, 200, 9.0),  # small
        candidate(2): (0.3, 400, 2.0),  # fast
        candidate(3): (0.2, 250, 5.0),  # neither the smallest nor the fastest for its errors
        candidate(4): (0.3, 200, 2.0),  # no fewer errors than another of its size: and as fast
    }
    assert set(best(costs)) == {candidate(0), candidate(1), candidate(2)}
    assert set(frontier(costs)) == {candidate(i) for i in (0, 1, 3, 4)}
    pairs = {c: cost[:2] for c, cost in costs.items()}
    assert best(pairs) == frontier(pairs)


def test_what_is_near_the_best_is_told_apart_later() -> None:
    costs: dict[Candidate, Costs] = {
        candidate(0): (0.200, 300),
        candidate(1): (0.209, 300),  # less than a point worse than 0
        candidate(2): (0.211, 300),
        candidate(3): (0.211, 290),  # smaller, but 4 is smaller still
        candidate(4): (0.200, 280),
        candidate(5): (0.400, 100),
    }
    assert near(costs) == [candidate(i) for i in (0, 1, 4, 5)]
    slow = {c: (*cost, 9.0) for c, cost in costs.items()} | {candidate(3): (0.211, 290, 1.0)}
    assert candidate(3) in near(slow)  # none is as fast


@pytest.fixture
def space() -> Space:
    config = SpaceConfig(
        layers=(1, 2, 3), width=(8, 12, 16, 20), heads=(1, 2, 3), inner=(32, 64), joiner=(8, 12)
    )
    return Space(large({}), config)


def evolution(space: Space, allowed: Any = lambda c: True, seed: int = 0) -> Evolution:
    return Evolution(space, ["a", "b"], allowed, mutation=0.2, seed=seed)


def costs_of(found: list[Candidate]) -> dict[Candidate, Costs]:
    """Fewer errors with more of everything, but for heads and format "b"."""
    costs: dict[Candidate, Costs] = {}
    for c in found:
        s = c.sizes
        size = s.layers * s.width * (s.heads + sum(s.inner) / 64) + s.joiner
        errors = 100 / (s.layers * s.width + 4 * s.joiner) + s.heads + (c.formats == "b")
        costs[c] = (errors, size)
    return costs


def all_of(space: Space) -> list[Candidate]:
    genes = space.genes
    chosen = [dict(zip(genes, values, strict=True)) for values in product(*genes.values())]
    sizes = {space.sizes(genes) for genes in chosen}
    return [Candidate(sizes=s, formats=f) for s in sizes for f in ("a", "b")]


def search(found: Evolution, count: int) -> dict[Candidate, Costs]:
    costs = costs_of(found.first(20))
    while len(costs) < count and (children := found.next(costs, 20)):
        costs |= costs_of(children)
    return costs


def test_it_gets_close_to_the_frontier_of_the_whole_space(space: Space) -> None:
    every = costs_of(all_of(space))
    best = [every[c] for c in frontier(every)]
    few = search(evolution(space), len(every) // 8)
    found = [few[c] for c in frontier(few)]
    drawn = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    blind = {list(every)[i]: list(every.values())[i] for i in drawn[: len(few)]}

    def regret(points: list[Costs]) -> float:
        """How many more errors, on average, for a size that the whole frontier has."""
        at = [min((e for e, s in points if s <= size), default=30.0) for _, size in best]
        return sum(a - e for a, (e, _) in zip(at, best, strict=True)) / len(best)

    assert regret(found) < 0.5 * regret([blind[c] for c in frontier(blind)])
    assert regret(found) < 0.5


def test_nothing_twice_nothing_forbidden_and_an_end(space: Space) -> None:
    def small(c: Candidate) -> bool:
        return c.sizes.width <= 12 and c.sizes.layers == 1

    found = search(evolution(space, small), 10**6)
    assert all(map(small, found))
    allowed = {c for c in all_of(space) if small(c)}
    assert set(found) <= allowed
    assert len(found) > 0.7 * len(allowed)  # and then it ends by itself


def test_a_function_of_seed_and_scores(space: Space) -> None:
    first, again = (list(search(evolution(space, seed=s), 80)) for s in (1, 1))
    assert first == again != list(search(evolution(space, seed=2), 80))


def test_no_evenly_shrunk_sub_network_is_left_unseen(space: Space) -> None:
    """So that none of them is better, where scored, than what a search finds."""
    even = {
        Candidate(sizes=space.sizes(space.even(share)), formats=name)
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
        for name in ("a", "b")
    }
    assert {space.smallest, space.largest} < {c.sizes for c in even}
    first = evolution(space).first(20)
    assert even < set(first) and len(first) == 20
    assert len(evolution(space).first(3)) == 3

    def small(c: Candidate) -> bool:
        return c.sizes != space.largest

    assert {c for c in even if small(c)} < set(evolution(space, small).first(20))
