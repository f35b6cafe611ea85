"""Joiner: out(tanh(W_e e + W_d p)).

Dimensions: D encoder width, P predictor width, J joiner width, V vocabulary.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pocketscribe.weights import Dim, Weights


class Joiner(nn.Module):
    """Encoder and predictor are projected once a frame or label, then added node by node."""

    def __init__(
        self, weights: Weights, name: str, encoder: Dim, predictor: Dim, width: int, vocabulary: int
    ) -> None:
        super().__init__()
        inner = Dim(name, width)
        self.encoder = weights.linear(f"{name}.encoder", encoder, inner)
        self.predictor = weights.linear(f"{name}.predictor", predictor, inner, bias=False)
        self.out = weights.linear(f"{name}.out", inner, vocabulary)

    def forward(
        self, encoder: Float[Tensor, "*#B J"], predictor: Float[Tensor, "*#B J"]
    ) -> Float[Tensor, "*#B V"]:
        """Logits from two projections of broadcastable shapes."""
        return self.out(torch.tanh(encoder + predictor))
