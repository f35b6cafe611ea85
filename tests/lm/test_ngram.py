"""The language model against slow sums over a tiny text, and its file against strangers."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pocketscribe.errors import UserError
from pocketscribe.lm import kneser_ney
from pocketscribe.lm.kneser_ney import FIRST, START, Level
from pocketscribe.lm.ngram import (
    Arrays,
    Ngram,
    learn,
    load,
    save,
)
from pocketscribe.speech.units import Units, UnitsConfig
from redigested import contents, redigested

ORDER, PLENTY = 4, 10**6
WORDS = [
    "THE",
    "CAT",
    "SAT",
    "ON",
    "A",
    "MAT",
    "DOG",
    "AND",
    "MAD",
    "THAT",
    "DATES",
    "TONE",
    "NOTED",
    "SANG",
    "AT",
    "HAND",
]
TEXT = [
    " ".join(np.random.default_rng(seed).choice(WORDS, 5, p=np.arange(16, 0, -1) / 136))
    for seed in range(40)
]
Context = tuple[int, ...]


@pytest.fixture(scope="module")
def units() -> Units:
    return Units.learn(TEXT, UnitsConfig(kind="char"))


@pytest.fixture(scope="module")
def sentences(units: Units) -> list[list[int]]:
    return [units.encode(sentence) for sentence in TEXT]


def by_labels(levels: list[Level]) -> list[dict[Context, tuple[float, float]]]:
    """Of each order: an n-gram's labels to its log-probability and its back-off."""
    names: list[list[Context]] = [[()]]
    for level in levels[1:]:
        rows = zip(level.prefix, level.label, strict=True)
        names.append([(*names[-1][p], int(label)) for p, label in rows])
    return [
        {labels: (level.log_prob[i], level.log_backoff[i]) for i, labels in enumerate(several)}
        for level, several in zip(levels, names, strict=True)
    ]


def slow_log_prob(model: list[dict[Context, tuple[float, float]]], h: Context, label: int) -> float:
    """Back-off, as its definition goes; a context that is not there backs off for nothing."""
    ngram = (*h, label)
    if len(ngram) < len(model) and ngram in model[len(ngram)]:
        return model[len(ngram)][ngram][0]
    assert h, "every label is known on its own"
    backoff = model[len(h)][h][1] if len(h) < len(model) and h in model[len(h)] else 0.0
    return backoff + slow_log_prob(model, h[1:], label)


def contexts(model: list[dict[Context, tuple[float, float]]]) -> list[Context]:
    return [h for level in model[:-1] for h in level]


@pytest.mark.parametrize("budget", [PLENTY, 200])
def test_probabilities_sum_to_one_after_every_context(
    sentences: list[list[int]], units: Units, budget: int
) -> None:
    levels = kneser_ney.learn(sentences, len(units), ORDER)
    levels = kneser_ney.prune(levels, [0, 1, 1, 1, 1], budget)
    assert (sum(len(level.label) for level in levels) < 300) == (budget == 200)
    model = by_labels(levels)
    assert len(contexts(model)) > 50
    for h in [*contexts(model), (3, 3, 3), (START, 4, 4)]:
        total = sum(np.exp(slow_log_prob(model, h, label)) for label in range(FIRST, len(units)))
        assert total == pytest.approx(1, abs=1e-6), h


def test_the_highest_order_is_counted_as_the_papers_say() -> None:
    """Chen and Goodman's formula, written out with dictionaries, for order 2."""
    generator = np.random.default_rng(0)
    sentences = [(FIRST + generator.zipf(1.5, 20) % 20).tolist() for _ in range(10)]
    [_, unigrams, bigrams] = kneser_ney.learn(sentences, 22, 2)
    seen: dict[Context, int] = {}
    for sentence in sentences:
        for pair in zip([START, *sentence], sentence, strict=False):
            seen[pair] = seen.get(pair, 0) + 1
    t = [sum(c == k for c in seen.values()) for k in range(5)]
    y = t[1] / (t[1] + 2 * t[2])
    assert min(t[1:]) > 0
    discount = [0, *(k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3))]
    discount = [min(max(d, 0.1), 0.9 * k) if k else 0 for k, d in enumerate(discount)]
    lower = dict(zip(unigrams.label.tolist(), np.exp(unigrams.log_prob), strict=True))
    after = {v: sum(pair[1] == v for pair in seen) for v in range(FIRST, 22)}
    for row in range(len(bigrams.label)):
        h, label = int(unigrams.label[bigrams.prefix[row]]), int(bigrams.label[row])
        same = [c for pair, c in seen.items() if pair[0] == h]
        left = sum(discount[min(c, 3)] for c in same) / sum(same)
        expected = (seen[h, label] - discount[min(seen[h, label], 3)]) / sum(same)
        assert np.exp(bigrams.log_prob[row]) == pytest.approx(expected + left * lower[label])
    # Lower orders count what a label was seen after, not how often.
    best = max(range(FIRST, 22), key=lambda v: lower[v])
    assert after[best] == max(after.values())


@pytest.mark.parametrize("budget", [PLENTY, 4800])
def test_the_automaton_is_backing_off(
    sentences: list[list[int]], units: Units, budget: int
) -> None:
    arrays = learn(sentences, len(units), ORDER, budget)
    model, known = Ngram(arrays, len(units)), by_labels(_levels(arrays, units))
    assert (sum(map(len, known)) < 300) == (budget == 4800)
    for sentence in [*sentences, [2, 3, 2, 2, 9, 9, 4]]:
        state = model.after(0, START)
        for n, label in enumerate(sentence):
            context = (START, *sentence[:n])[-(ORDER - 1) :]
            slow = [slow_log_prob(known, context, v) for v in range(FIRST, len(units))]
            slow = list(slow - np.logaddexp.reduce(slow))  # 8 bits undone
            found = model.log_probs_after(state)
            assert found[:FIRST].tolist() == [-np.inf] * FIRST
            np.testing.assert_allclose(found[FIRST:], slow, atol=1e-5)
            state = model.after(state, label)


def _levels(arrays: Arrays, units: Units) -> list[Level]:
    """The file's n-grams as levels again, by a walk over its trie."""
    model = Ngram(arrays, len(units))
    names: dict[int, Context] = {0: ()}
    for node in range(1, len(model.labels)):
        names[node] = (*names[int(model.parent[node])], int(model.labels[node]))
    rows = {n: [i for i, name in names.items() if len(name) == n] for n in range(ORDER + 1)}
    empty = np.zeros(0)
    return [
        Level(
            np.searchsorted(rows[n - 1], model.parent[rows[n]]) if n else empty,
            empty,
            model.labels[rows[n]],
            empty,
            empty,
            model.log_probs[rows[n]],
            model.backoffs[rows[n]],
        )
        for n in range(ORDER + 1)
        if rows[n]
    ]


def test_rounding_to_a_byte_moves_little(sentences: list[list[int]], units: Units) -> None:
    exact = by_labels(kneser_ney.learn(sentences, len(units), ORDER))
    model = Ngram(learn(sentences, len(units), ORDER, PLENTY), len(units))
    state, before = model.after(0, START), (START,)
    for label in sentences[0]:
        expected = slow_log_prob(exact, before[-(ORDER - 1) :], label)
        assert model.log_probs_after(state)[label] == pytest.approx(expected, abs=0.1)
        state, before = model.after(state, label), (*before, label)


def test_a_model_likes_what_it_has_read(sentences: list[list[int]], units: Units) -> None:
    model = Ngram(learn(sentences, len(units), ORDER, PLENTY), len(units))

    def log_prob(text: str) -> float:
        state, total = model.after(0, START), 0.0
        for label in units.encode(text):
            total += model.log_probs_after(state)[label]
            state = model.after(state, label)
        return total

    assert log_prob("THE CAT SAT") > log_prob("HTE CTA STA") + 5


@pytest.mark.parametrize("budget", [4400, 4700])
def test_the_file_keeps_to_its_budget(
    sentences: list[list[int]], units: Units, tmp_path: Path, budget: int
) -> None:
    save(tmp_path / "lm", learn(sentences, len(units), ORDER, budget), units, {})
    assert budget - 4096 < (tmp_path / "lm").stat().st_size <= budget


def test_many_units_take_two_bytes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    sentences = [generator.integers(FIRST, 300, 20).tolist() for _ in range(50)]
    model = Ngram(learn(sentences, 300, 3, PLENTY), 300)
    assert learn(sentences, 300, 3, PLENTY)["labels"].dtype == np.uint16
    state = model.after(0, START)
    for label in sentences[0]:
        assert model.log_probs_after(state)[label] > np.log(2 / 300)
        state = model.after(state, label)


@pytest.fixture
def written(sentences: list[list[int]], units: Units, tmp_path: Path) -> Path:
    save(tmp_path / "good.lm", learn(sentences, len(units), ORDER, PLENTY), units, {"a": 1})
    return tmp_path / "good.lm"


def test_a_file_gives_back_the_model(
    written: Path, sentences: list[list[int]], units: Units
) -> None:
    model = Ngram(learn(sentences, len(units), ORDER, PLENTY), len(units))
    read = load(written, units)
    for state in range(len(model.labels)):
        np.testing.assert_array_equal(read.log_probs_after(state), model.log_probs_after(state))
    assert json.loads(contents(written)[0]["card"]) == {"a": 1}


def _longer(a: Arrays) -> None:
    a["log_probs"] = np.append(a["log_probs"], a["log_probs"][:1])


def _too_many(a: Arrays) -> None:
    a["children"][-1] += 1


def _loop(a: Arrays) -> None:
    a["children"][:3] = [a["children"][0], 0, 0]
    a["children"][-1] = len(a["labels"]) - a["children"][:-1].astype(int).sum()


def _unit(a: Arrays) -> None:
    a["labels"][3] = 200


def _order(a: Arrays) -> None:
    siblings = int(a["children"][:2].sum())  # the first children of node 2
    a["labels"][siblings : siblings + 2] = a["labels"][siblings : siblings + 2][::-1]


def _blank(a: Arrays) -> None:
    a["labels"][-1] = 0


def _signed(a: Arrays) -> None:
    a["backoffs"] = a["backoffs"].astype(np.int8)


def _extra(a: Arrays) -> None:
    a["more"] = a["labels"]


@pytest.mark.parametrize(
    "damage", [_longer, _too_many, _loop, _unit, _order, _blank, _signed, _extra]
)
def test_a_strangers_file_is_refused_by_one_line(
    written: Path, units: Units, damage: Callable[[Arrays], None]
) -> None:
    """Also where the digest was made anew."""
    redigested(written, written, lambda _, arrays: damage(arrays))
    with pytest.raises(UserError, match="not a readable language model"):
        load(written, units)


def test_altered_bits_are_noticed(written: Path, units: Units) -> None:
    data = bytearray(written.read_bytes())
    data[-5] ^= 4
    written.write_bytes(data)
    with pytest.raises(UserError, match="altered since it was written"):
        load(written, units)
    written.write_bytes(data[:-5])
    with pytest.raises(UserError, match="not a readable language model"):
        load(written, units)
    with pytest.raises(UserError, match="no such language model"):
        load(written.with_name("gone"), units)


def test_other_units_are_refused(written: Path) -> None:
    other = Units.learn(["OTHER UNITS"], UnitsConfig(kind="char"))
    with pytest.raises(UserError, match="a recogniser of other units"):
        load(written, other)
