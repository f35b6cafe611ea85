"""What a search is, and greedy search: at most one label a frame (as sherpa-onnx decodes).

A search keeps what it needs between chunks, so the same code decodes whole utterances and streams.

Dimensions: B streams, S encoder frames of a chunk, J encoder output, V vocabulary, N hypotheses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pocketscribe.models import BLANK
from pocketscribe.models.predictor import START
from pocketscribe.speech.units import UNKNOWN


@dataclass
class Hypothesis:
    """Labels, the encoder frame (40 ms) in which each was emitted, and its log-probability there.

    Two are equal by labels and frames: scores differ in their last bits with the batch.
    """

    labels: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list, compare=False)


@runtime_checkable
class TransducerScorer(Protocol):
    """Predictor and joiner of a model, in whatever runtime.

    Attributes:
        rows: how many rows `join` takes in about the time of one.
    """

    rows: int

    def predict(self, context: Int[Tensor, "N 2"]) -> Float[Tensor, "N J"]: ...

    def join(
        self, encoded: Float[Tensor, "N J"], predicted: Float[Tensor, "N J"]
    ) -> Float[Tensor, "N V"]: ...


@runtime_checkable
class Search(Protocol):
    """Decodes a batch of streams chunk by chunk."""

    def advance(self, encoded: Float[Tensor, "B S J"], frames: Int[Tensor, " B"]) -> None:
        """Takes a chunk of which `frames` are real in each stream."""

    def best(self) -> list[Hypothesis]:
        """The best hypothesis of each stream so far."""


class Predictions:
    """A scorer's predictions by context, each made once: few pairs of labels make up a language."""

    MOST = 4096

    def __init__(self, scorer: TransducerScorer) -> None:
        self._scorer = scorer
        self._rows: dict[tuple[int, ...], Tensor] = {}

    def after(self, contexts: Sequence[tuple[int, ...]]) -> Float[Tensor, "N J"]:
        new = list({context for context in contexts if context not in self._rows})
        if new:
            if len(self._rows) + len(new) > self.MOST:
                self._rows, new = {}, list(set(contexts))
            made = self._scorer.predict(torch.tensor(new))
            self._rows.update(zip(new, made, strict=True))
        return torch.stack([self._rows[context] for context in contexts])


class GreedySearch:
    """The likeliest label or blank in every frame."""

    def __init__(self, scorer: TransducerScorer, streams: int) -> None:
        self.scorer = scorer
        self.predictions = Predictions(scorer)
        self.contexts: list[tuple[int, ...]] = [START] * streams
        self.found = [Hypothesis() for _ in range(streams)]
        self.clock = 0

    def advance(self, encoded: Float[Tensor, "B S J"], frames: Int[Tensor, " B"]) -> None:
        """Joins some frames ahead with what is predicted now; up to the first label that holds."""
        at, ends = [0] * len(encoded), frames.tolist()
        emitted: list[tuple[int, Tensor]] = []
        while live := [i for i, end in enumerate(ends) if at[i] < end]:
            ahead = max(1, self.scorer.rows // len(live))
            spans = [range(at[i], min(at[i] + ahead, ends[i])) for i in live]
            window = [encoded[i, s.start : s.stop] for i, s in zip(live, spans, strict=True)]
            predicted = self.predictions.after([self.contexts[i] for i in live])
            lengths = torch.tensor([len(span) for span in spans], device=predicted.device)
            logits = self.scorer.join(torch.cat(window), predicted.repeat_interleave(lengths, 0))
            labels, first = logits.argmax(-1).tolist(), 0
            for i, span in zip(live, spans, strict=True):
                at[i] = span.stop
                for row, t in enumerate(span, start=first):
                    # sherpa-onnx reads the unknown label as blank, so we do.
                    if labels[row] not in (BLANK, UNKNOWN):
                        at[i] = t + 1
                        self.found[i].labels.append(labels[row])
                        self.found[i].frames.append(self.clock + t)
                        self.contexts[i] = (*self.contexts[i][1:], labels[row])
                        emitted.append((i, logits[row]))
                        break
                first += len(span)
        if emitted:
            scores = torch.stack([row for _, row in emitted]).float().log_softmax(-1).amax(-1)
            for (i, _), score in zip(emitted, scores.tolist(), strict=True):
                self.found[i].scores.append(score)
        self.clock += encoded.shape[1]

    def best(self) -> list[Hypothesis]:
        return self.found


class CtcSearch:
    """CTC's best path: repeats folded, blanks dropped. `encoded` are logits."""

    def __init__(self, streams: int) -> None:
        self.last = [BLANK] * streams
        self.found = [Hypothesis() for _ in range(streams)]
        self.clock = 0

    def advance(self, encoded: Float[Tensor, "B S V"], frames: Int[Tensor, " B"]) -> None:
        best = encoded.float().log_softmax(-1).max(-1)
        for i, row in enumerate(best.indices.tolist()):
            for t, label in enumerate(row[: int(frames[i])]):
                if label not in (BLANK, UNKNOWN, self.last[i]):
                    self.found[i].labels.append(label)
                    self.found[i].frames.append(self.clock + t)
                    self.found[i].scores.append(float(best.values[i, t]))
                self.last[i] = label
        self.clock += encoded.shape[1]

    def best(self) -> list[Hypothesis]:
        return self.found
