"""What a search finds: the candidates that no other beats in every respect."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import Field, field_validator

from pocketscribe.config import Config, read_bytes
from pocketscribe.errors import UserError
from pocketscribe.models.subnets import Sizes
from pocketscribe.weights import FormatRule

Costs = Sequence[float | int]  # word errors, bytes and, where measured, milliseconds
T = TypeVar("T")
NEAR = 0.01  # of word errors: half of a dev part tells no such difference


class Candidate(Config):
    """A sub-network, and the name of the formats that it ships in."""

    sizes: Sizes
    formats: str


class Confirmed(Config):
    """Word errors on the half of dev that has no say but among the best; shares, not percent."""

    wer: float
    ci_low: float
    ci_high: float
    words: int


class Point(Config):
    """A candidate of a frontier, and what is known of it.

    Attributes:
        rules: what the name of its formats stands for.
        bytes: of its packed file, to the byte.
        wer: on the part of dev that the search went by.
        confirmed: on the other part.
        milliseconds: that one thread of this machine computes on a chunk; None: not measured.
    """

    candidate: Candidate
    rules: tuple[FormatRule, ...]
    bytes: int = Field(gt=0)
    wer: float
    confirmed: Confirmed
    milliseconds: float | None = None

    @property
    def errors(self) -> float:
        """Word errors on both parts of dev: to choose by one alone would be to search on it."""
        return (self.wer + self.confirmed.wer) / 2

    @property
    def described(self) -> str:
        """For people, in a line."""
        sizes = self.candidate.sizes
        inner = ", ".join(map(str, sizes.inner))
        rank = f", rank {sizes.rank}" if sizes.rank else ""
        wer = self.confirmed
        return (
            f"{sizes.layers} layers of width {sizes.width} ({sizes.heads} heads, {inner} inside"
            f"{rank}), predictor {sizes.predictor}, joiner {sizes.joiner}, "
            f"{self.candidate.formats}: WER {wer.wer:.2%} [{wer.ci_low:.2%}, {wer.ci_high:.2%}] "
            f"on the {wer.words} words of dev that confirm"
        )


class TakeConfig(Config):
    """What a stage takes of what a search found: the best sub-network's sizes.

    Attributes:
        search: the stage that searched.
        budget: bytes that its file may have, such as "2MB".
        formats: take the formats too, which else are the stage's own.
    """

    search: str
    budget: str
    formats: bool = False

    @field_validator("budget")
    @classmethod
    def _check_budget(cls, budget: str) -> str:
        read_bytes(budget, "take.budget =")
        return budget


class _Card(Config, extra="ignore"):
    frontier: tuple[Point, ...] = ()


def frontier_of(card: Mapping[str, Any], source: str) -> tuple[Point, ...]:
    """The frontier on a model's card; empty where there is none.

    Raises:
        UserError: it was not written by a search.
    """
    return _Card.read({k: v for k, v in card.items() if k == "frontier"}, source).frontier


def within(points: Sequence[Point], budget: int, milliseconds: float | None = None) -> list[Point]:
    """Those whose file, and whose time on a chunk, are within limits: fewest word errors first.

    Raises:
        UserError: there are none; names the smallest, or the fastest.
    """
    fast = _fast(points, milliseconds)
    found = [point for point in fast if point.bytes <= budget]
    if not found:
        least = min(point.bytes for point in fast)
        raise UserError(f"a budget of {budget:,} bytes: the smallest sub-network takes {least:,}")
    return sorted(found, key=lambda point: (point.errors, point.bytes))


def _fast(points: Sequence[Point], milliseconds: float | None) -> list[Point]:
    if milliseconds is None:
        return list(points)
    measured = [(p, p.milliseconds) for p in points if p.milliseconds is not None]
    if not measured:
        raise UserError(
            f"--milliseconds {milliseconds}: nothing was measured when this frontier was found; "
            "search with latency = true"
        )
    found = [point for point, taken in measured if taken <= milliseconds]
    if not found:
        least = min(taken for _, taken in measured)
        raise UserError(f"--milliseconds {milliseconds}: the fastest sub-network takes {least}")
    return found


def best(costs: Mapping[Candidate, Costs]) -> list[Candidate]:
    """The frontier of word errors against bytes and, where measured, that against milliseconds.

    All three at once would keep every candidate that was faster by the noise of a clock.
    """
    return list(dict.fromkeys(c for pair in _pairs(costs) for c in frontier(pair)))


def near(costs: Mapping[Candidate, Costs]) -> list[Candidate]:
    """The best, and what is no worse than by `NEAR`: what is best among them, is chance."""
    found: set[Candidate] = set()
    for pair in _pairs(costs):
        on = [pair[candidate] for candidate in frontier(pair)]
        found |= {
            candidate
            for candidate, (errors, size) in pair.items()
            if not any(e + NEAR < errors and s <= size for e, s in on)
        }
    return [candidate for candidate in costs if candidate in found]


def _pairs(costs: Mapping[Candidate, Costs]) -> list[dict[Candidate, Costs]]:
    """Word errors with each other cost."""
    count = len(next(iter(costs.values()), ()))
    return [{c: (cost[0], cost[at]) for c, cost in costs.items()} for at in range(1, count)]


def frontier(costs: Mapping[T, Costs]) -> list[T]:
    """Those that no other beats or equals in every cost; of equals, the first.

    Smaller costs are better; the best by the first cost comes first.
    """
    found: list[T] = []
    for candidate in sorted(costs, key=lambda c: tuple(costs[c])):
        mine = costs[candidate]
        # None that comes later can beat it: its first cost is no less.
        if not any(all(a <= b for a, b in zip(costs[c], mine, strict=True)) for c in found):
            found.append(candidate)
    return found
