"""Modified beam search, at most one label a frame (as sherpa-onnx decodes).

Dimensions: B streams, S encoder frames of a chunk, J encoder output, N hypotheses.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pocketscribe.decoding.search import BLANK, UNKNOWN, Hypothesis, TransducerScorer
from pocketscribe.models.predictor import CONTEXT, START


class _Path(NamedTuple):
    score: float
    frames: tuple[int, ...]
    scores: tuple[float, ...]


class BeamSearch:
    """Modified beam search: hypotheses with equal labels are merged, one label a frame at most."""

    def __init__(self, scorer: TransducerScorer, streams: int, beam: int) -> None:
        self.scorer = scorer
        self.beam = beam
        self.beams: list[dict[tuple[int, ...], _Path]] = [
            {(): _Path(0.0, (), ())} for _ in range(streams)
        ]
        self.clock = 0

    def advance(self, encoded: Float[Tensor, "B S J"], frames: Int[Tensor, " B"]) -> None:
        for t in range(encoded.shape[1]):
            live = [i for i in range(len(self.beams)) if t < frames[i]]
            if live:
                self._frame(encoded[:, t], live, self.clock + t)
        self.clock += encoded.shape[1]

    def best(self) -> list[Hypothesis]:
        found = []
        for paths in self.beams:
            labels, path = max(paths.items(), key=lambda p: _normalised(p[1].score, p[0]))
            found.append(Hypothesis(list(labels), list(path.frames), list(path.scores)))
        return found

    def _frame(self, encoded: Float[Tensor, "B J"], live: list[int], now: int) -> None:
        """All hypotheses of all live streams through the joiner at once."""
        owner = [i for i in live for _ in self.beams[i]]
        hypotheses = [h for i in live for h in self.beams[i].items()]
        contexts = torch.tensor([[*START, *labels][-CONTEXT:] for labels, _ in hypotheses])
        logits = self.scorer.join(encoded[owner], self.scorer.predict(contexts))
        log_probs = logits.float().log_softmax(-1)
        scores = log_probs + torch.tensor([path.score for _, path in hypotheses]).unsqueeze(1)
        first = 0
        for i in live:
            count = len(self.beams[i])
            rows = scores[first : first + count].flatten()
            top = rows.topk(min(self.beam, rows.numel()))
            merged: dict[tuple[int, ...], _Path] = {}
            for score, index in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                row, label = divmod(first * scores.shape[1] + index, scores.shape[1])
                labels, path = hypotheses[row]
                path = path._replace(score=score)
                if label not in (BLANK, UNKNOWN):
                    labels = (*labels, label)
                    emitted = float(log_probs[row, label])
                    path = _Path(score, (*path.frames, now), (*path.scores, emitted))
                other = merged.get(labels)
                if other is not None:  # the better path's times stay
                    total = torch.logaddexp(torch.tensor(score), torch.tensor(other.score))
                    path = other._replace(score=float(total))
                merged[labels] = path
            self.beams[i] = merged
            first += count


def _normalised(score: float, labels: tuple[int, ...]) -> float:
    """Score a label, so that long texts are not at a disadvantage."""
    return score / (len(labels) + CONTEXT)
