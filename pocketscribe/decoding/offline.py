"""Decoding whole utterances in batches, under any chunking.

Dimensions: B batch, T feature frames (10 ms), S encoder frames (40 ms), F mel bins.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from pocketscribe.decoding.search import Hypothesis
from pocketscribe.decoding.searcher import Searcher
from pocketscribe.models import Chunking, Recogniser
from pocketscribe.models.chunks import TAIL
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.features import LOG_FLOOR


class TorchScorer:
    """A recogniser's own predictor and joiner."""

    rows = 32

    def __init__(self, model: Recogniser) -> None:
        self.model = model

    def predict(self, context: Int[Tensor, "N 2"]) -> Float[Tensor, "N J"]:
        context = context.to(self.model.mean.device)
        return self.model.joiner.predictor(self.model.predictor.step(context))

    def join(
        self, encoded: Float[Tensor, "N J"], predicted: Float[Tensor, "N J"]
    ) -> Float[Tensor, "N V"]:
        return self.model.joiner(encoded, predicted).cpu()


def scorer_of(model: Recogniser) -> TorchScorer | None:
    """What a search asks; None for a CTC head, whose output needs no scorer."""
    return None if model.config.head == "ctc" else TorchScorer(model)


def head_input(model: Recogniser, encoded: Float[Tensor, "B S D"]) -> Float[Tensor, "B S J"]:
    """What a search takes: the joiner's view of the encoder, or CTC logits."""
    return model.ctc(encoded) if model.config.head == "ctc" else model.joiner.encoder(encoded)


@torch.inference_mode()
def decode(
    model: Recogniser,
    features: Sequence[Float[Tensor, "_ F"]],
    chunking: Chunking,
    searcher: Searcher | None = None,
) -> list[Hypothesis]:
    """Decodes a batch of utterances' features, greedily where no `searcher` is given.

    Less than one encoder frame gives no labels.
    """
    device = model.mean.device
    frames = torch.tensor([len(x) for x in features], dtype=torch.long)
    if not features or frames.max() < FACTOR:
        return [Hypothesis() for _ in features]
    padded = pad_sequence(list(features), batch_first=True).to(device)
    encoded, frames = model.encode(padded, frames.to(device), chunking)
    search = (searcher or Searcher()).start(scorer_of(model), len(features))
    search.advance(head_input(model, encoded), frames.cpu())
    return search.best()


def with_tail(features: Float[Tensor, "T F"]) -> Float[Tensor, "T2 F"]:
    """Features that were computed without the silence that ends every utterance, and silence.

    With one label a frame at most, what was said last needs time to be written. Nothing stays
    nothing.
    """
    return features if not len(features) else F.pad(features, (0, 0, 0, TAIL), value=LOG_FLOOR)
