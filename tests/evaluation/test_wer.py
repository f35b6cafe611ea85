"""Word errors by hand, and their interval against every possible draw of speakers."""

import random
from itertools import product

import numpy as np
import pytest

from pocketscribe.evaluation.wer import Scored, score, word_error_rate


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts"),
    [
        ("A B C", "A B C", (0, 0, 0)),
        ("A B C", "A X C", (1, 0, 0)),
        ("A B C", "A C", (0, 1, 0)),
        ("A B C", "A B B C", (0, 0, 1)),
        ("A B C", "", (0, 3, 0)),
        ("", "A B", (0, 0, 2)),
        ("", "", (0, 0, 0)),
        ("A B C D", "B C D E", (0, 1, 1)),  # not four substitutions
        ("A B C D E", "X B D E F", (1, 1, 1)),
        ("ONE TWO", "ONETWO", (1, 1, 0)),
        ("  A   B ", "A B", (0, 0, 0)),
        ("a", "A", (1, 0, 0)),  # spelling is normalised before, not here
    ],
)
def test_hand_counted(reference: str, hypothesis: str, counts: tuple[int, int, int]) -> None:
    scored = score("id", "speaker", reference, hypothesis)
    assert (scored.substitutions, scored.deletions, scored.insertions) == counts
    assert scored.errors == sum(counts) and scored.words == len(reference.split())


def utterance(speaker: str, words: int, errors: int, name: str = "u") -> Scored:
    return Scored(name, speaker, "", "", errors, 0, 0, words)


def test_pools_over_utterances() -> None:
    scored = [
        score("1", "a", "A B C D", "A B C X"),
        score("2", "b", "A B", "A B C"),
        score("3", "b", "A B C D", "A B"),
    ]
    rate = word_error_rate(scored)
    assert rate.wer == pytest.approx(4 / 10)  # not the mean of the utterances' rates
    assert (rate.substitutions, rate.deletions, rate.insertions) == (1, 2, 1)
    assert rate.words == 10 and rate.utterances == 3
    assert 0 <= rate.ci_low <= rate.wer <= rate.ci_high


def exact_interval(speakers: dict[str, tuple[int, int]]) -> tuple[float, float]:
    """Over all n^n equally likely draws of n speakers."""
    draws = product(speakers.values(), repeat=len(speakers))
    rates = [sum(e for e, _ in draw) / sum(w for _, w in draw) for draw in draws]
    low, high = np.percentile(rates, [2.5, 97.5], method="inverted_cdf")
    return float(low), float(high)


def test_interval_is_that_of_all_draws_of_speakers() -> None:
    speakers = {"a": (3, 40), "b": (20, 55), "c": (9, 30), "d": (1, 25), "e": (30, 61)}
    scored = [
        utterance(name, words // 5, errors if i == 0 else 0)  # spread over five utterances each
        for name, (errors, words) in speakers.items()
        for i in range(5)
    ]
    rate = word_error_rate(scored)
    exact = exact_interval({k: (e, w // 5 * 5) for k, (e, w) in speakers.items()})
    assert (rate.ci_low, rate.ci_high) == pytest.approx(exact, abs=0.006)


def test_speakers_are_drawn_whole() -> None:
    """A good and a bad speaker differ more than their utterances tell: the interval is wide."""
    by_speaker = [utterance(s, 10, 8 * (s == "bad")) for s in ("good", "bad") for _ in range(50)]
    unknown = [utterance("", 10, s.errors, str(i)) for i, s in enumerate(by_speaker)]
    wide, narrow = word_error_rate(by_speaker), word_error_rate(unknown)
    assert wide.wer == narrow.wer == pytest.approx(0.4)
    assert (wide.ci_low, wide.ci_high) == pytest.approx((0.0, 0.8))
    generator = random.Random(0)
    rates = sorted(sum(generator.choices((0, 8), k=100)) / 1000 for _ in range(4000))
    slow = (rates[100], rates[-100])  # utterance by utterance, where speakers are unknown
    assert (narrow.ci_low, narrow.ci_high) == pytest.approx(slow, abs=0.01)


def test_unknown_speakers_are_not_one_speaker() -> None:
    unknown = [utterance("", 10, i, str(i)) for i in range(8)]
    rate = word_error_rate(unknown)
    assert rate.ci_low < rate.wer < rate.ci_high


def test_of_a_single_speaker_utterances_are_drawn() -> None:
    alone = [utterance("one", 10, i % 4, str(i)) for i in range(40)]
    unknown = [utterance("", s.words, s.errors, s.id) for s in alone]
    assert word_error_rate(alone) == word_error_rate(unknown)
    assert word_error_rate(alone).ci_low < word_error_rate(alone).wer


def test_each_part_is_drawn_from_for_itself() -> None:
    """One voice with many words beside a few with few: none of a part is ever left out."""
    voice = [utterance("one", 10, i % 3, str(i)) for i in range(40)]
    others = [utterance(str(i), 2, 2) for i in range(3)]
    scored, parts = [*voice, *others], [0] * 40 + [1] * 3
    pooled, each = word_error_rate(scored), word_error_rate(scored, parts=parts)
    assert each.wer == pooled.wer and pooled.ci_high == 1.0
    alone = word_error_rate(voice)
    assert each.ci_high - each.ci_low == pytest.approx(alone.ci_high - alone.ci_low, abs=0.01)
    assert word_error_rate(voice, parts=[1] * 40) == alone


def test_same_seed_same_interval() -> None:
    scored = [utterance(str(i % 7), 10, i % 4) for i in range(60)]
    assert word_error_rate(scored) == word_error_rate(scored)
    assert word_error_rate(scored, seed=1).ci_low == pytest.approx(
        word_error_rate(scored).ci_low, abs=0.01
    )


def test_more_speakers_narrow_the_interval() -> None:
    few = word_error_rate([utterance(str(i), 10, 4 * (i % 2)) for i in range(10)])
    many = word_error_rate([utterance(str(i), 10, 4 * (i % 2)) for i in range(400)])
    assert many.ci_high - many.ci_low < 0.25 * (few.ci_high - few.ci_low)


def test_nothing_to_score() -> None:
    with pytest.raises(ValueError, match="no utterances"):
        word_error_rate([])
    silent = word_error_rate([score("1", "a", "", "A")])  # no words at all: errors as they are
    assert silent.words == 0 and silent.insertions == 1


def test_reads_as_percent() -> None:
    rate = word_error_rate([utterance("a", 8, 1)])
    assert str(rate) == "12.50% [12.50%, 12.50%]"
