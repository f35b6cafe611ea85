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


def word_error_rate(scored: Sequence[Scored], seed: int = 0) -> WordErrorRate:
    """Pools errors over utterances; resamples whole speakers.

    Utterances of one speaker fail together, so drawing utterances would make the interval too
    narrow. They are drawn where speakers are unknown, and where there is but one: the interval then
    speaks of that voice alone.
    """
    if not scored:
        raise ValueError("no utterances to score")
    lone = len({s.speaker for s in scored}) == 1
    units: dict[str, list[int]] = {}
    for s in scored:
        drawn = f"utterance {s.id}" if lone or not s.speaker else s.speaker
        pooled = units.setdefault(drawn, [0, 0])
        pooled[0] += s.errors
        pooled[1] += s.words
    errors, words = np.array(list(units.values()), dtype=np.float64).T
    generator, count, rates = np.random.default_rng(seed), len(units), []
    for _ in range(RESAMPLES // AT_ONCE):
        draws = generator.multinomial(count, np.full(count, 1 / count), size=AT_ONCE)
        rates.append((draws @ errors) / np.maximum(draws @ words, 1))
    low, high = np.percentile(rates, [2.5, 97.5])
    return WordErrorRate(
        wer=float(errors.sum() / max(words.sum(), 1)),
        ci_low=float(low),
        ci_high=float(high),
        substitutions=sum(s.substitutions for s in scored),
        deletions=sum(s.deletions for s in scored),
        insertions=sum(s.insertions for s in scored),
        words=int(words.sum()),
        utterances=len(scored),
    )
