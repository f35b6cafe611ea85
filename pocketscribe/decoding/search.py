"""What a search is, and greedy search: at most one label a frame (as sherpa-onnx decodes).

A search keeps what it needs between chunks, so the same code decodes whole utterances and streams.

Dimensions: B streams, S encoder frames of a chunk, J encoder output, V vocabulary, N hypotheses.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pocketscribe.models.predictor import START

BLANK, UNKNOWN = 0, 1


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
    """Predictor and joiner of a model, in whatever runtime."""

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


class GreedySearch:
    """The likeliest label or blank in every frame."""

    def __init__(self, scorer: TransducerScorer, streams: int) -> None:
        self.scorer = scorer
        self.context = torch.tensor(START).repeat(streams, 1)
        self.predicted = scorer.predict(self.context)
        self.found = [Hypothesis() for _ in range(streams)]
        self.clock = 0

    def advance(self, encoded: Float[Tensor, "B S J"], frames: Int[Tensor, " B"]) -> None:
        for t in range(encoded.shape[1]):
            logits = self.scorer.join(encoded[:, t], self.predicted)
            label = logits.argmax(-1)
            # sherpa-onnx reads the unknown label as blank, so we do.
            emits = (label != BLANK) & (label != UNKNOWN) & (t < frames)
            for i in emits.nonzero().flatten().tolist():
                self.found[i].labels.append(int(label[i]))
                self.found[i].frames.append(self.clock + t)
                self.found[i].scores.append(float(logits[i].float().log_softmax(-1)[label[i]]))
            if emits.any():
                moved = torch.cat([self.context[:, 1:], label.unsqueeze(1)], dim=1)
                self.context = torch.where(emits.unsqueeze(1), moved, self.context)
                self.predicted = self.scorer.predict(self.context)
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
