"""Word error rate with a bootstrap confidence interval (Bisani & Ney 2004) over speakers."""

from collections.abc import Sequence
from dataclasses import dataclass

import kaldialign
import numpy as np

RESAMPLES = 10_000
AT_ONCE = 100  # resamples in memory: thousands of unknown speakers must not cost gigabytes


@dataclass(frozen=True)
class Scored:
    """One utterance's errors."""

    id: str
    speaker: str  # "" where unknown
    reference: str
    hypothesis: str
    substitutions: int
    deletions: int
    insertions: int
    words: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


@dataclass(frozen=True)
class WordErrorRate:
    """WER and its 95% interval are shares, not percent."""

    wer: float
    ci_low: float
    ci_high: float
    substitutions: int
    deletions: int
    insertions: int
    words: int
    utterances: int

    def __str__(self) -> str:
        return f"{self.wer:.2%} [{self.ci_low:.2%}, {self.ci_high:.2%}]"


def score(id: str, speaker: str, reference: str, hypothesis: str) -> Scored:
    """Aligns one hypothesis with its reference, word by word."""
    words = reference.split()
    found = kaldialign.edit_distance(words, hypothesis.split())
    return Scored(
        id, speaker, reference, hypothesis, found["sub"], found["del"], found["ins"], len(words)
    )


def word_error_rate(
    scored: Sequence[Scored], seed: int = 0, parts: Sequence[int] | None = None
) -> WordErrorRate:
    """Pools errors over utterances; resamples whole speakers, within each of the `parts` that the
    utterances are of.

    Utterances of one speaker fail together, so drawing utterances would make the interval too
    narrow. They are drawn where speakers are unknown, and where there is but one: the interval then
    speaks of that voice alone.
    """
    if not scored:
        raise ValueError("no utterances to score")
    by_part: dict[int, list[Scored]] = {}
    for s, part in zip(scored, parts or [0] * len(scored), strict=True):
        by_part.setdefault(part, []).append(s)
    generator, rates = np.random.default_rng(seed), []
    pooled = [_by_speaker(found) for found in by_part.values()]
    for _ in range(RESAMPLES // AT_ONCE):
        drawn = np.zeros((AT_ONCE, 2))
        for units in pooled:
            count = len(units)
            draws = generator.multinomial(count, np.full(count, 1 / count), size=AT_ONCE)
            drawn += draws @ units
        rates.append(drawn[:, 0] / np.maximum(drawn[:, 1], 1))
    low, high = np.percentile(rates, [2.5, 97.5])
    errors, words = sum(s.errors for s in scored), sum(s.words for s in scored)
    return WordErrorRate(
        wer=errors / max(words, 1),
        ci_low=float(low),
        ci_high=float(high),
        substitutions=sum(s.substitutions for s in scored),
        deletions=sum(s.deletions for s in scored),
        insertions=sum(s.insertions for s in scored),
        words=words,
        utterances=len(scored),
    )


def _by_speaker(scored: Sequence[Scored]) -> np.ndarray:
    """Errors and words, [of what is drawn, 2]."""
    lone = len({s.speaker for s in scored}) == 1
    units: dict[str, list[int]] = {}
    for s in scored:
        drawn = f"utterance {s.id}" if lone or not s.speaker else s.speaker
        pooled = units.setdefault(drawn, [0, 0])
        pooled[0] += s.errors
        pooled[1] += s.words
    return np.array(list(units.values()), dtype=np.float64)
