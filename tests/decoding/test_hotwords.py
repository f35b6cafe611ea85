"""Hotwords against counting: what a text is worth in the end is what its phrases are worth."""

from itertools import product

import pytest
import torch

from pocketscribe.decoding.hotwords import Hotwords

VOCABULARY, SCORE = 6, 1.5


def worth(hotwords: Hotwords, labels: tuple[int, ...]) -> tuple[float, float]:
    """Of a text: as it is credited, and when it ends here."""
    state, total = hotwords.start, 0.0
    for label in labels:
        total += float(hotwords.scores(state)[label])
        state = hotwords.after(state, label)
    return total, total - hotwords.owed(state)


@pytest.mark.parametrize(
    "phrases", [[(2, 3, 4)], [(2, 3, 4), (3, 5)], [(2, 2, 3)], [(2, 3, 2, 3)], [(3,), (2, 3, 4)]]
)
def test_in_the_end_each_phrase_counts_and_nothing_else(phrases: list[tuple[int, ...]]) -> None:
    hotwords = Hotwords(phrases, SCORE, VOCABULARY)
    for labels in product(range(2, VOCABULARY), repeat=6):
        said = sum(
            len(phrase) * (labels[i : i + len(phrase)] == phrase)
            for phrase in phrases
            for i in range(len(labels))
        )
        assert worth(hotwords, labels)[1] == pytest.approx(SCORE * said)


def test_credit_comes_unit_by_unit_and_is_returned_where_the_phrase_breaks_off() -> None:
    hotwords = Hotwords([(2, 3, 4)], SCORE, VOCABULARY)
    assert worth(hotwords, (2,)) == (SCORE, 0)
    assert worth(hotwords, (2, 3)) == (2 * SCORE, 0)
    assert worth(hotwords, (2, 3, 4)) == (3 * SCORE, 3 * SCORE)
    assert worth(hotwords, (2, 3, 5)) == (0, 0)
    assert worth(hotwords, (2, 3, 2)) == (SCORE, 0), "the phrase may begin again"
    assert worth(hotwords, (2, 3, 4, 5, 2)) == (4 * SCORE, 3 * SCORE)


def test_a_phrase_that_goes_on_from_another_is_credited_on() -> None:
    hotwords = Hotwords([(2, 3), (2, 3, 4, 5)], SCORE, VOCABULARY)
    assert worth(hotwords, (2, 3)) == (2 * SCORE, 2 * SCORE)
    assert worth(hotwords, (2, 3, 4)) == (3 * SCORE, 2 * SCORE)
    assert worth(hotwords, (2, 3, 4, 5)) == (4 * SCORE, 4 * SCORE)
    assert worth(hotwords, (2, 3, 4, 2)) == (3 * SCORE, 2 * SCORE)


def test_blank_is_worth_nothing_wherever_the_text_is() -> None:
    hotwords = Hotwords([(2, 3, 4)], SCORE, VOCABULARY)
    for state in range(4):
        assert torch.equal(hotwords.scores(state)[:2], torch.zeros(2))
