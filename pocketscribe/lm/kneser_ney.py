"""Learning an n-gram language model over text units: interpolated modified Kneser-Ney smoothing
(Chen and Goodman 1998), then as many n-grams as fit a number of bytes.

All n-grams of one order form a level: rows sorted by (prefix, last label), whose `prefix` and
`suffix` are rows of the level below, so that every step is a sort or a sum over arrays.

"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

START = 0  # before a sentence; in the recogniser's units it is blank, which is never predicted
FIRST = 2  # the first real label, after blank and the unknown one


@dataclass
class Level:
    """The n-grams of one order, by rows.

    Attributes:
        prefix, suffix: all but the last and all but the first label, as rows one level below.
        label: the last label.
        count: how often it was seen.
        starts: whether it begins with a sentence's start.
        log_prob: of the last label after the prefix, with all lower orders mixed in.
        log_backoff: as a context: what its suffix' probabilities are multiplied by for labels that
            were not kept after it; 0 where none was.
    """

    prefix: np.ndarray
    suffix: np.ndarray
    label: np.ndarray
    count: np.ndarray
    starts: np.ndarray
    log_prob: np.ndarray
    log_backoff: np.ndarray


def learn(sentences: Iterable[Sequence[int]], vocabulary: int, order: int) -> list[Level]:
    """Levels 0 (the empty context alone) to `order`.

    Every real label is a row of level 1, whether it was seen or not, and so is START, as a context.
    """
    text = np.concatenate([np.array([START, *sentence], np.int64) for sentence in sentences])
    levels = _counted(text, vocabulary, order)
    _smooth(levels, vocabulary)
    return levels


def _counted(text: np.ndarray, vocabulary: int, order: int) -> list[Level]:
    starts = np.flatnonzero(text == START)
    age = np.arange(len(text)) - np.repeat(starts, np.diff([*starts, len(text)]))
    labels = np.array([START, *range(FIRST, vocabulary)])
    count = np.bincount(text, minlength=vocabulary)[labels]
    zero = np.zeros(len(labels), np.int64)
    levels = [_level(zero[:1], zero[:1], zero[:1] - 1, zero[:1] + len(text), zero[:1] > 0)]
    levels.append(_level(zero, zero, labels, count, labels == START))
    row = np.searchsorted(labels, text)  # of the n-gram that ends here
    for n in range(2, order + 1):
        ends = np.flatnonzero(age >= n - 1)
        key, first, row_here, count = np.unique(
            row[ends - 1] * vocabulary + text[ends],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        prefix, label = np.divmod(key, vocabulary)
        suffix = row[ends][first]
        levels.append(_level(prefix, suffix, label, count, levels[-1].starts[prefix]))
        row = np.full(len(text), -1)
        row[ends] = row_here
    return levels


def _level(
    prefix: np.ndarray, suffix: np.ndarray, label: np.ndarray, count: np.ndarray, starts: np.ndarray
) -> Level:
    nothing = np.zeros(len(label))
    return Level(prefix, suffix, label, count, starts, nothing, nothing.copy())


def _smooth(levels: list[Level], vocabulary: int) -> None:
    """Fills in probabilities, from the lowest order up."""
    below = np.zeros(1) + 1 / (vocabulary - FIRST)  # every label alike
    for n, level in enumerate(levels[1:], start=1):
        seen = level.count.astype(float)
        if n + 1 < len(levels):  # below the highest order: how many labels it was seen after
            after = np.bincount(levels[n + 1].suffix, minlength=len(seen))
            seen = np.where(level.starts, seen, after)
        seen[level.label == START] = 0  # it is never predicted
        prefix, contexts = level.prefix, len(levels[n - 1].label)
        discount = _discounts(seen)[np.minimum(seen, 3).astype(int)]
        total = np.maximum(np.bincount(prefix, seen, contexts), 1e-30)
        left = np.bincount(prefix, discount, contexts) / total
        probability = (seen - discount) / total[prefix] + left[prefix] * below[level.suffix]
        probability[level.label == START] = 0
        with np.errstate(divide="ignore"):
            level.log_prob = np.log(probability)
            levels[n - 1].log_backoff = np.where(left > 0, np.log(left), 0.0)
        below = probability


def _discounts(seen: np.ndarray) -> np.ndarray:
    """What to take from counts of 0, 1, 2, and 3 or more (Chen and Goodman's estimates)."""
    t = np.bincount(np.minimum(seen, 5).astype(int), minlength=6).astype(float)
    if not t[1:5].all():
        return np.array([0, 0.5, 1.0, 1.5])
    y = t[1] / (t[1] + 2 * t[2])
    found = np.array([k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)])
    return np.concatenate([[0], np.clip(found, 0.1, [0.9, 1.8, 2.7])])


def prune(levels: list[Level], cost: Sequence[int], budget: int) -> list[Level]:
    """Keeps the n-grams that matter most, as many as cost `budget` bytes, and level 1.

    `cost[n]` is what an n-gram of order n takes. One matters by how often it is seen and by how far
    the next lower order misses its probability; what stands on it keeps it.
    """
    worth = [np.zeros(0)] * len(levels)
    total = levels[1].count.sum()
    for n in range(len(levels) - 1, 1, -1):
        level, lower = levels[n], levels[n - 1]
        missed = lower.log_backoff[level.prefix] + lower.log_prob[level.suffix] - level.log_prob
        own = level.count / total * np.abs(missed)
        worth[n] = np.maximum(worth[n], own) if len(worth[n]) else own
        worth[n - 1] = np.zeros(len(lower.label))
        for stands_on in (level.prefix, level.suffix):
            np.maximum.at(worth[n - 1], stands_on, worth[n])
    worth[1][:] = np.inf
    every = np.concatenate(worth[1:])
    bytes_each = np.repeat(cost[1:], [len(w) for w in worth[1:]])
    # A stable sort: of equals, those come first on which the others stand.
    best = np.argsort(-every, kind="stable")
    fits = np.count_nonzero(np.cumsum(bytes_each[best]) <= budget)
    kept = np.zeros(len(every), bool)
    kept[best[:fits]] = True
    kept[: len(worth[1])] = True
    masks = np.split(kept, np.cumsum([len(w) for w in worth[1:]])[:-1])
    return _without(levels, [np.ones(1, bool), *masks])


def _without(levels: list[Level], masks: list[np.ndarray]) -> list[Level]:
    """The masked rows alone, with the back-offs that make each context's probabilities sum to 1."""
    found = [levels[0]]
    for n in range(1, len(levels)):
        mask, level = masks[n], levels[n]
        if not mask.any():
            break
        below, row = found[-1], np.cumsum(masks[n - 1]) - 1  # old rows of the level below to new
        prefix, suffix = row[level.prefix[mask]], row[level.suffix[mask]]
        kept = Level(
            prefix,
            suffix,
            level.label[mask],
            level.count[mask],
            level.starts[mask],
            level.log_prob[mask],
            np.zeros(mask.sum()),
        )
        if n > 1:
            here = np.bincount(prefix, np.exp(kept.log_prob), len(below.label))
            there = np.bincount(prefix, np.exp(below.log_prob[suffix]), len(below.label))
            has = np.bincount(prefix, minlength=len(below.label)) > 0
            rest = np.log(np.maximum(1 - here, 1e-7) / np.maximum(1 - there, 1e-7))
            below.log_backoff = np.where(has, rest, 0.0)
        found.append(kept)
    return found
