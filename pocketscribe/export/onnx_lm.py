"""A language model as the ONNX file that sherpa-onnx takes for shallow fusion.

sherpa-onnx asks an LSTM: a label and two states (layers, 1, width) in, log-probabilities of the
next label and two states out. Its first call has zeros and `sos_id`. Here the states have one
number: the first is the automaton's state, exact in a float up to 2^24; the second is not used. The
contexts that a state backs off to are looked up one after another, as `Ngram` does.

sherpa-onnx knows no label bonus; so what it takes for log-probabilities is all that fusion adds to
a label's score, and its own scale is 1.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from pocketscribe.export.onnx import traced
from pocketscribe.lm.kneser_ney import FIRST, START
from pocketscribe.lm.ngram import HIGHEST_BACKOFF, STEP, Ngram, code


class LmGraph(nn.Module):
    """(x, h, c) -> (log-probabilities after x, times `scale`, plus `bonus`; new h, c)."""

    labels: Tensor
    log_probs: Tensor
    target: Tensor
    first: Tensor
    count: Tensor
    link: Tensor
    backoffs: Tensor

    def __init__(self, model: Ngram, bonus: float, scale: float) -> None:
        super().__init__()
        self.bonus, self.scale = bonus, scale
        self.vocabulary, self.order = model.vocabulary, model.order
        self.widest = int(model.count.max())
        # One row a child, and room to read past the last: what lies beyond a state's own children
        # is written to a column that is thrown away.
        for name in ("labels", "target"):
            self._table(name, np.pad(getattr(model, name), (0, self.widest)))
        self._table("log_probs", np.pad(code(-model.log_probs), (0, self.widest)))
        contexts = int(np.flatnonzero(model.count).max()) + 1
        for name in ("first", "count", "link"):
            self._table(name, getattr(model, name)[:contexts])
        self._table("backoffs", code(HIGHEST_BACKOFF - model.backoffs[:contexts]))

    def _table(self, name: str, values: np.ndarray) -> None:
        """In a byte a number where they fit."""
        values = np.maximum(values, 0)  # node 0 has no label
        kind = torch.uint8 if values.max() < 256 else torch.int32
        self.register_buffer(name, torch.from_numpy(values.astype(np.int64)).to(kind))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = self._lookup(h.reshape(1).long(), self.target)[x.reshape(1)]
        scores = self._lookup(state, self.log_probs)
        scores = torch.cat([torch.full((FIRST,), -torch.inf), scores[FIRST:]]).log_softmax(0)
        added = self.scale * scores[FIRST:] + self.bonus
        scores = torch.cat([torch.zeros(FIRST), added])  # sherpa-onnx does not ask for the first
        return scores.reshape(1, 1, -1), state.float().reshape(1, 1, 1), c + 0

    def _lookup(self, state: Tensor, table: Tensor) -> Tensor:
        """What the state's children say, and below them those of its shorter and shorter contexts.

        The columns are the vocabulary's. Of log-probabilities, those of shorter contexts are
        multiplied by the back-offs between.
        """
        states = [state]
        for _ in range(self.order - 1):
            states.append(self.link[states[-1]].long())
        scored = table is self.log_probs
        found = torch.zeros(self.vocabulary + 1, dtype=torch.float32 if scored else torch.int64)
        for context in reversed(states):
            if scored:
                found = found + (HIGHEST_BACKOFF - STEP * self.backoffs[context].float())
            offsets = torch.arange(self.widest)
            children = self.first[context].long() + offsets
            own = offsets < self.count[context].long()
            labels = torch.where(own, self.labels[children].long(), self.vocabulary)
            values = table[children]
            values = -STEP * values.float() if scored else values.long()
            found = found.scatter(0, labels, values)
        return found[:-1]


def export_lm(model: Ngram, out: Path, bonus: float = 0.0, scale: float = 1.0) -> None:
    """Writes the ONNX file; `bonus` is in nats a label."""
    example = (torch.tensor([[START]]), torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    metadata = {"num_layers": 1, "hidden_size": 1, "sos_id": START}
    names = ["x", "h", "c"], ["log_prob", "new_h", "new_c"]
    onnx.save(traced(LmGraph(model, bonus, scale), example, *names, None, metadata), out)
