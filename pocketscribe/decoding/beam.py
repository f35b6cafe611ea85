"""Modified beam search, at most one label a frame (as sherpa-onnx decodes), with guides.

Dimensions: B streams, S encoder frames of a chunk, J encoder output, N hypotheses, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable
from weakref import WeakValueDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pocketscribe.decoding.search import (
    BLANK,
    UNKNOWN,
    Hypothesis,
    Predictions,
    TransducerScorer,
)
from pocketscribe.models.predictor import CONTEXT, START


@runtime_checkable
class Guide(Protocol):
    """What knows, by the labels so far, which labels to prefer; a state stands for those labels.

    Attributes:
        start: the state before the first label.
    """

    start: int

    def scores(self, state: int) -> Float[Tensor, " V"]:
        """What each next label is worth; blank and the unknown label 0."""

    def after(self, state: int, label: int) -> int:
        """The state that a label leads to."""

    def owed(self, state: int) -> float:
        """What was credited in advance, to be taken back where the text ends here."""


class _Text:
    """Labels so far: the last one, and those before it. Equal labels are one object (`_Texts`), so
    that a step costs the same however long the text is.
    """

    __slots__ = ("__weakref__", "before", "label", "length")

    def __init__(self, before: "_Text | None", label: int) -> None:
        self.before, self.label = before, label
        self.length: int = 0 if before is None else before.length + 1

    def last(self, count: int) -> list[int]:
        """At most so many labels, in order."""
        found: list[int] = []
        text = self
        while text.before is not None and len(found) < count:
            found.append(text.label)
            text = text.before
        return found[::-1]


class _Texts:
    """One stream's labels while any hypothesis stands on them."""

    def __init__(self) -> None:
        self.start = _Text(None, BLANK)
        # A text holds the one before it, whose id so is nobody else's as long as the entry lives.
        self._known: WeakValueDictionary[tuple[int, int], _Text] = WeakValueDictionary()

    def after(self, text: _Text, label: int) -> _Text:
        key = (id(text), label)
        if (found := self._known.get(key)) is None:
            found = self._known[key] = _Text(text, label)
        return found


class _Emitted(NamedTuple):
    """Where a label stands and what it scored, and those before it."""

    before: "_Emitted | None"
    frame: int
    score: float


class _Path(NamedTuple):
    score: float
    emitted: _Emitted | None
    states: tuple[int, ...]  # of the guides


class BeamSearch:
    """Modified beam search: hypotheses with equal labels are merged, one label a frame at most."""

    def __init__(
        self, scorer: TransducerScorer, streams: int, beam: int, guides: Sequence[Guide] = ()
    ) -> None:
        self.scorer, self.beam, self.guides = scorer, beam, guides
        self.predictions = Predictions(scorer)
        start = _Path(0.0, None, tuple(guide.start for guide in guides))
        self.texts = [_Texts() for _ in range(streams)]
        self.beams: list[dict[_Text, _Path]] = [{texts.start: start} for texts in self.texts]
        self.clock = 0

    def advance(self, encoded: Float[Tensor, "B S J"], frames: Int[Tensor, " B"]) -> None:
        ends = frames.tolist()
        for t in range(encoded.shape[1]):
            live = [i for i, end in enumerate(ends) if t < end]
            if live:
                self._frame(encoded[:, t], live, self.clock + t)
        self.clock += encoded.shape[1]

    def best(self) -> list[Hypothesis]:
        found = []
        for paths in self.beams:
            text, path = max(paths.items(), key=self._normalised)
            frames, scores = _unrolled(path.emitted)
            found.append(Hypothesis(text.last(text.length), frames, scores))
        return found

    def _normalised(self, item: tuple[_Text, _Path]) -> float:
        """Score a label, so that long texts are not at a disadvantage."""
        text, path = item
        owed = (guide.owed(s) for guide, s in zip(self.guides, path.states, strict=True))
        return (path.score - sum(owed)) / (text.length + CONTEXT)

    def _frame(self, encoded: Float[Tensor, "B J"], live: list[int], now: int) -> None:
        """All hypotheses of all live streams through the joiner at once."""
        hypotheses = [list(self.beams[i].items()) for i in live]
        everything = [h for several in hypotheses for h in several]
        owner = [i for i, several in zip(live, hypotheses, strict=True) for _ in several]
        contexts = [(*START, *text.last(CONTEXT))[-CONTEXT:] for text, _ in everything]
        logits = self.scorer.join(encoded[owner], self.predictions.after(contexts))
        log_probs = logits.float().log_softmax(-1)
        scores = log_probs + torch.tensor([path.score for _, path in everything]).unsqueeze(1)
        for n, guide in enumerate(self.guides):
            scores = scores + torch.stack([guide.scores(p.states[n]) for _, p in everything])
        size = scores.shape[1]
        first = 0
        for i, several in zip(live, hypotheses, strict=True):
            rows = slice(first, first + len(several))
            candidates = scores[rows].flatten()
            top = candidates.topk(min(self.beam, len(candidates)))
            emitted = log_probs[rows].flatten()[top.indices].tolist()
            self.beams[i] = self._merged(
                self.texts[i],
                several,
                size,
                now,
                top.values.tolist(),
                top.indices.tolist(),
                emitted,
            )
            first += len(several)

    def _merged(
        self,
        texts: _Texts,
        hypotheses: list[tuple[_Text, _Path]],
        size: int,
        now: int,
        scores: list[float],
        indices: list[int],
        emitted: list[float],
    ) -> dict[_Text, _Path]:
        """The best continuations, those of equal labels made one."""
        merged: dict[_Text, _Path] = {}
        for score, index, log_prob in zip(scores, indices, emitted, strict=True):
            row, label = divmod(index, size)
            text, path = hypotheses[row]
            if label in (BLANK, UNKNOWN):
                path = path._replace(score=score)
            else:
                text = texts.after(text, label)
                states = tuple(
                    guide.after(s, label) for guide, s in zip(self.guides, path.states, strict=True)
                )
                path = _Path(score, _Emitted(path.emitted, now, log_prob), states)
            if (other := merged.get(text)) is not None:  # the better path's times stay
                path = other._replace(score=float(np.logaddexp(score, other.score)))
            merged[text] = path
        return merged


def _unrolled(last: _Emitted | None) -> tuple[list[int], list[float]]:
    """Frames and scores of all labels, in order."""
    frames: list[int] = []
    scores: list[float] = []
    while last is not None:
        frames.append(last.frame)
        scores.append(last.score)
        last = last.before
    return frames[::-1], scores[::-1]
