"""Modified beam search, at most one label a frame (as sherpa-onnx decodes), with guides.

Dimensions: B streams, S encoder frames of a chunk, J encoder output, N hypotheses, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

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


class _Path(NamedTuple):
    score: float
    frames: tuple[int, ...]
    scores: tuple[float, ...]
    states: tuple[int, ...]  # of the guides


class BeamSearch:
    """Modified beam search: hypotheses with equal labels are merged, one label a frame at most."""

    def __init__(
        self, scorer: TransducerScorer, streams: int, beam: int, guides: Sequence[Guide] = ()
    ) -> None:
        self.scorer, self.beam, self.guides = scorer, beam, guides
        self.predictions = Predictions(scorer)
        start = _Path(0.0, (), (), tuple(guide.start for guide in guides))
        self.beams: list[dict[tuple[int, ...], _Path]] = [{(): start} for _ in range(streams)]
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
            labels, path = max(paths.items(), key=self._normalised)
            found.append(Hypothesis(list(labels), list(path.frames), list(path.scores)))
        return found

    def _normalised(self, item: tuple[tuple[int, ...], _Path]) -> float:
        """Score a label, so that long texts are not at a disadvantage."""
        labels, path = item
        owed = (guide.owed(s) for guide, s in zip(self.guides, path.states, strict=True))
        return (path.score - sum(owed)) / (len(labels) + CONTEXT)

    def _frame(self, encoded: Float[Tensor, "B J"], live: list[int], now: int) -> None:
        """All hypotheses of all live streams through the joiner at once."""
        hypotheses = [list(self.beams[i].items()) for i in live]
        everything = [h for several in hypotheses for h in several]
        owner = [i for i, several in zip(live, hypotheses, strict=True) for _ in several]
        contexts = [(*START, *labels[-CONTEXT:])[-CONTEXT:] for labels, _ in everything]
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
                several, size, now, top.values.tolist(), top.indices.tolist(), emitted
            )
            first += len(several)

    def _merged(
        self,
        hypotheses: list[tuple[tuple[int, ...], _Path]],
        size: int,
        now: int,
        scores: list[float],
        indices: list[int],
        emitted: list[float],
    ) -> dict[tuple[int, ...], _Path]:
        """The best continuations, those of equal labels made one; best first."""
        merged: dict[tuple[int, ...], _Path] = {}
        for score, index, log_prob in zip(scores, indices, emitted, strict=True):
            row, label = divmod(index, size)
            labels, path = hypotheses[row]
            if label in (BLANK, UNKNOWN):
                path = path._replace(score=score)
            else:
                labels = (*labels, label)
                states = tuple(
                    guide.after(s, label) for guide, s in zip(self.guides, path.states, strict=True)
                )
                path = _Path(score, (*path.frames, now), (*path.scores, log_prob), states)
            if (other := merged.get(labels)) is not None:  # the better path's times stay
                path = other._replace(score=float(np.logaddexp(score, other.score)))
            merged[labels] = path
        return merged
