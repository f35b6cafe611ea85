"""Stateless predictor: the last two labels, embedded, mixed and rectified.

Dimensions: B batch, U labels, P predictor width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pocketscribe.weights import Dim, Weights

CONTEXT = 2  # labels
START = (-1, 0)  # the context before the first label: nothing (embeds to zeros), then blank


class Predictor(nn.Module):
    """Embedding -> depthwise convolution over two labels -> ReLU (arXiv 1911.11430 family)."""

    def __init__(self, weights: Weights, name: str, vocabulary: int, width: Dim) -> None:
        super().__init__()
        self.embedding = weights.embedding(f"{name}.embedding", vocabulary, width)
        self.mix = weights.depthwise(f"{name}.mix", width, CONTEXT, bias=False)

    def forward(self, labels: Int[Tensor, "B U"]) -> Float[Tensor, "B U1 P"]:
        """Position u holds the prediction after labels[:u]: U + 1 positions."""
        start = labels.new_tensor(START).expand(labels.shape[0], CONTEXT)
        return self.mixed(torch.cat([start, labels], dim=1))

    def step(self, context: Int[Tensor, "B 2"]) -> Float[Tensor, "B P"]:
        """The prediction after the last two labels."""
        return self.mixed(context).squeeze(1)

    def mixed(self, ids: Int[Tensor, "B N"]) -> Float[Tensor, "B M P"]:
        return F.relu(self.mix(self.embedding(ids)))
