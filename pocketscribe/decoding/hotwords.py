"""Hotwords: phrases that a beam search prefers, such as names and commands (contextual biasing)."""

from collections import deque
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class Hotwords:
    """A `Guide`: an Aho-Corasick automaton over the phrases' units.

    Every unit of a phrase is credited as it is said, and the credit is taken back where the phrase
    breaks off: in the end each occurrence of a phrase is worth `score` a unit, and nothing else is
    worth anything.

    Dimensions: V vocabulary.
    """

    start = 0

    def __init__(self, phrases: Iterable[Sequence[int]], score: float, vocabulary: int) -> None:
        self.children: list[dict[int, int]] = [{}]
        self.link = [0]  # the longest proper end of a node's units that is a node too
        self.credit = [0.0]  # given since the last phrase that a node's units begin with
        self.earned = [0.0]  # by the phrases that end here, less what one within them has earned
        self.score, self.vocabulary = score, vocabulary
        ends = {self._add(phrase) for phrase in phrases}
        waiting = deque([0])
        while waiting:  # breadth first: links lead to nodes nearer the root
            parent = waiting.popleft()
            for label, node in self.children[parent].items():
                self.link[node] = self.after(self.link[parent], label) if parent else 0
                due = self.credit[parent] + score
                self.credit[node] = 0.0 if node in ends else due
                self.earned[node] = self.earned[self.link[node]] + (due if node in ends else 0.0)
                waiting.append(node)
        self._rows: dict[int, Tensor] = {}

    def _add(self, phrase: Sequence[int]) -> int:
        node = 0
        for label in phrase:
            if label not in self.children[node]:
                self.children[node][label] = len(self.children)
                self.children.append({})
                self.link.append(0)
                self.credit.append(0.0)
                self.earned.append(0.0)
            node = self.children[node][label]
        return node

    def after(self, state: int, label: int) -> int:
        while label not in self.children[state]:
            if state == 0:
                return 0
            state = self.link[state]
        return self.children[state][label]

    def scores(self, state: int) -> Float[Tensor, " V"]:
        if state not in self._rows:
            row = torch.full((self.vocabulary,), -self.credit[state])
            row[:2] = 0  # blank and the unknown label
            node = state
            while True:  # what a longer context knows comes last and stays
                for label in self.children[node]:
                    to = self.after(state, label)
                    row[label] = self.credit[to] + self.earned[to] - self.credit[state]
                if node == 0:
                    break
                node = self.link[node]
            self._rows[state] = row
        return self._rows[state]

    def owed(self, state: int) -> float:
        return self.credit[state]
