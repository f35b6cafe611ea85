"""What a search finds: the candidates that no other beats in every respect."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from pocketscribe.config import Config
from pocketscribe.models.subnets import Sizes
from pocketscribe.weights import FormatRule

Costs = Sequence[float | int]  # word errors, bytes and, where measured, milliseconds


class Candidate(Config):
    """A sub-network, and the name of the formats that it ships in."""

    sizes: Sizes
    formats: str


class Confirmed(Config):
    """Word errors on speech that had no say in the search; shares, not percent."""

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
            f"on {wer.words} words of dev that had no say in the search"
        )


class _Card(Config, extra="ignore"):
    frontier: tuple[Point, ...] = ()


def frontier_of(card: Mapping[str, Any], source: str) -> tuple[Point, ...]:
    """The frontier on a model's card; empty where there is none.

    Raises:
        UserError: it was not written by a search.
    """
    return _Card.read({k: v for k, v in card.items() if k == "frontier"}, source).frontier


def frontier(costs: Mapping[Candidate, Costs]) -> list[Candidate]:
    """The candidates that no other beats or equals in every cost; of equals, the first.

    Smaller costs are better; the best by the first cost comes first.
    """
    found: list[Candidate] = []
    for candidate in sorted(costs, key=lambda c: tuple(costs[c])):
        mine = costs[candidate]
        # None that comes later can beat it: its first cost is no less.
        if not any(all(a <= b for a, b in zip(costs[c], mine, strict=True)) for c in found):
            found.append(candidate)
    return found
