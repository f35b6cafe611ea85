"""An n-gram language model over text units: its file, and the automaton that a search walks.

The n-grams form a trie. Nodes are numbered level by level, each node's children side by side in the
order of their labels; node 0 is the empty context, node 1 a sentence's start. Four arrays say all:

    children      how many each node has, but for the nodes of the highest order
    labels        each node's last label, but for node 0
    log_probs     of that label after the ones before, in steps of -1/16
    backoffs      what a context's shorter one is multiplied by where the label is no child of it,
                  as a logarithm in steps of -1/16 from 4

That is 4 bytes an n-gram, 2 of the highest order (6 and 3 with more than 256 units). Scores are
normalised when they are read, so what rounding did to the sums is undone.

Dimensions: N hypotheses, V vocabulary.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pocketscribe.errors import UserError
from pocketscribe.files import replacing
from pocketscribe.lm import kneser_ney
from pocketscribe.lm.kneser_ney import FIRST, START
from pocketscribe.models.packed import digest
from pocketscribe.speech.units import Units

FORMAT = "pocketscribe-lm-1"
STEP, HIGHEST_BACKOFF = 1 / 16, 4.0
MOST_ORDER = 16
ROWS = 8192  # contexts whose scores are kept at hand
HEADER = 4096  # bytes that a file takes besides its arrays, at most
Arrays = dict[str, np.ndarray]


def learn(sentences: Iterable[Sequence[int]], vocabulary: int, order: int, budget: int) -> Arrays:
    """The arrays of a model of at most `budget` bytes, if single labels take no more; `sentences`
    are labels.
    """
    wide = _width(vocabulary).itemsize
    levels = kneser_ney.learn(sentences, vocabulary, order)
    cost = [0, *[2 + 2 * wide] * (order - 1), 1 + wide]
    return _arrays(kneser_ney.prune(levels, cost, budget - HEADER), vocabulary)


def _arrays(levels: Sequence[kneser_ney.Level], vocabulary: int) -> Arrays:
    children = [
        np.bincount(level.prefix, minlength=len(below.label)) for below, level in pairwise(levels)
    ]
    log_probs = np.concatenate([level.log_prob for level in levels[1:]])
    backoffs = np.concatenate([level.log_backoff for level in levels[:-1]])
    wide = _width(vocabulary)
    return {
        "children": np.concatenate(children).astype(wide),
        "labels": np.concatenate([level.label for level in levels[1:]]).astype(wide),
        "log_probs": code(-log_probs),
        "backoffs": code(HIGHEST_BACKOFF - backoffs),
    }


def _width(vocabulary: int) -> np.dtype:
    return np.dtype(np.uint8 if vocabulary <= 256 else np.uint16)


def code(values: np.ndarray) -> np.ndarray:
    """Sixteenths in a byte, as a model's file has them."""
    return np.clip(np.rint(values / STEP), 0, 255).astype(np.uint8)


def save(
    path: Path, arrays: Arrays, units: Units, card: dict[str, Any], budget: int | None = None
) -> None:
    """Writes a model's file; the card says what it was learnt from.

    Raises:
        UserError: the file would be larger than the budget, and is not written.
    """
    header = {"format": FORMAT, "units": units_digest(units), "card": json.dumps(card)}
    header["digest"] = digest(arrays, header)
    with replacing(path) as beside:
        save_file(arrays, beside, header)
        if budget is not None and (size := beside.stat().st_size) > budget:
            raise UserError(
                f"--budget: the smallest language model of these units takes {size:,} bytes"
            )


def units_digest(units: Units) -> str:
    """The same for units of the same pieces in the same order."""
    return hashlib.sha256("\n".join(units.symbols()).encode()).hexdigest()


class Ngram:
    """A model as an automaton: a state is the node of the longest context that it knows."""

    def __init__(self, arrays: Arrays, vocabulary: int) -> None:
        """Raises ValueError where the arrays are no trie over that vocabulary."""
        children, labels = arrays["children"].astype(np.int64), arrays["labels"].astype(np.int64)
        nodes = len(labels) + 1
        self.vocabulary = vocabulary
        self.labels = np.concatenate([[-1], labels])
        self.log_probs = np.concatenate([[0.0], -STEP * arrays["log_probs"]]).astype(np.float32)
        self.count = np.concatenate([children, np.zeros(max(nodes - len(children), 0), np.int64)])
        if len(children) > nodes or children.sum() != nodes - 1:
            raise ValueError("its nodes do not add up")
        if len(self.log_probs) != nodes or len(arrays["backoffs"]) != len(children):
            raise ValueError("its arrays differ in length")
        self.backoffs = np.zeros(nodes, np.float32)
        self.backoffs[: len(children)] = HIGHEST_BACKOFF - STEP * arrays["backoffs"]
        self.backoffs[self.count == 0] = 0
        self.backoffs[0] = 0
        self.first = np.cumsum(self.count) - self.count + 1
        self.parent = np.concatenate([[0], np.repeat(np.arange(nodes), self.count)])
        self._check_labels()
        self.order = len(list(self._levels()))
        self.link = self._links()
        self.target = self._targets()
        self.row = lru_cache(maxsize=ROWS)(self._row)

    def _check_labels(self) -> None:
        everything = [START, *range(FIRST, self.vocabulary)]
        if self.labels[1 : 1 + self.count[0]].tolist() != everything:
            raise ValueError("it does not know every unit")
        if (self.labels[1 + self.count[0] :] < FIRST).any():
            raise ValueError("it predicts what is no text")
        # Parents come before their children, and siblings in the order of their labels.
        self._keys = self.parent[1:] * self.vocabulary + self.labels[1:]
        if (np.diff(self._keys) <= 0).any() or (self.labels >= self.vocabulary).any():
            raise ValueError("its nodes are out of order")
        if (self.parent[1:] >= np.arange(1, len(self.parent))).any():
            raise ValueError("its nodes do not hang together")

    def _levels(self) -> Iterable[slice]:
        """The nodes of order 1, 2, …"""
        first, last = 1, 1 + int(self.count[0])
        for _ in range(MOST_ORDER):
            if first == last:
                return
            yield slice(first, last)
            first, last = last, last + int(self.count[first:last].sum())
        raise ValueError(f"its order is above {MOST_ORDER}")

    def _links(self) -> np.ndarray:
        """Each node's context without its first label, which is a node too."""
        link = np.zeros(len(self.labels), np.int64)
        for nodes in list(self._levels())[1:]:
            wanted = link[self.parent[nodes]] * self.vocabulary + self.labels[nodes]
            found = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
            if (self._keys[found] != wanted).any():
                raise ValueError("it lacks a shorter context")
            link[nodes] = found + 1
        return link

    def _targets(self) -> np.ndarray:
        """Where reading a node's last label leads: to the node, if anything is known after it."""
        target = np.where(self.count > 0, np.arange(len(self.count)), 0)
        for nodes in self._levels():
            target[nodes] = np.where(self.count[nodes] > 0, target[nodes], target[self.link[nodes]])
        return target

    def _row(self, state: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each next label: log-probability, not yet normalised, and the state it leads to."""
        if state:
            log_probs, states = (a.copy() for a in self.row(int(self.link[state])))
            log_probs += self.backoffs[state]
        else:
            log_probs = np.zeros(self.vocabulary, np.float32)
            states = np.zeros(self.vocabulary, np.int64)
        nodes = slice(self.first[state], self.first[state] + self.count[state])
        log_probs[self.labels[nodes]] = self.log_probs[nodes]
        states[self.labels[nodes]] = self.target[nodes]
        return log_probs, states

    def log_probs_after(self, state: int) -> Float[np.ndarray, " V"]:
        """Of each next label; -inf for blank and the unknown label, which are no text."""
        found = self.row(state)[0].copy()
        found[:FIRST] = -np.inf
        return found - np.logaddexp.reduce(found)

    def after(self, state: int, label: int) -> int:
        return int(self.row(state)[1][label])


def load(path: Path, units: Units) -> Ngram:
    """Reads a model for a recogniser of these units.

    Raises:
        UserError: the file is missing, damaged, altered, not ours, or of other units.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such language model; make one with pocketscribe lm")
    try:
        with safe_open(path, "np") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: numpy has no such type
        raise UserError(f"{path}: not a readable language model ({error})") from None
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: not a language model of this version ({FORMAT})")
    if header.get("digest") != digest(arrays, header):
        raise UserError(f"{path}: altered since it was written (digest); make it again")
    if header.get("units") != units_digest(units):
        raise UserError(f"{path}: learnt for a recogniser of other units; make one for this model")
    wide, byte = _width(len(units)), np.dtype(np.uint8)
    types = {"children": wide, "labels": wide, "log_probs": byte, "backoffs": byte}
    if {n: (a.dtype, a.ndim) for n, a in arrays.items()} != {n: (t, 1) for n, t in types.items()}:
        raise UserError(f"{path}: not a readable language model (other arrays than it should have)")
    try:
        return Ngram(arrays, len(units))
    except ValueError as error:
        raise UserError(f"{path}: not a readable language model ({error})") from None
