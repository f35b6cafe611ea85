"""The only layers that multiply: each computes its matrix from `Weight`s and knows no more.

Dimensions: B batch, T time, K kernel; I, O features in and out, R rank.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pocketscribe.weights.quantise import fake_quantise_rows
from pocketscribe.weights.weight import Transposed, Weight


def _bias(width: int | None) -> nn.Parameter | None:
    """Small noise: a tensor of zeros has no size for ScaledAdam to take steps in proportion to."""
    return nn.Parameter(torch.empty(width).uniform_(-0.02, 0.02)) if width else None


def _activations(x: Tensor, weight: Weight | Transposed) -> Tensor:
    bits = weight.format.activations
    return x if bits is None else fake_quantise_rows(x, bits)


class Linear(nn.Module):
    """`y = s * (W x) + b`, with W one stored matrix or two low-rank factors multiplied by in turn.

    The scale s `[O]` is there only where the spec asks for one. It multiplies the output, not the
    matrix, which may be shared and would have to be stored again for each layer.
    """

    def __init__(
        self,
        weight: Weight | Transposed,
        bias: int | None,
        factor: Weight | Transposed | None = None,
        scale: int | None = None,
    ) -> None:
        """`weight` is `[O, I]`; with `factor` `[R, I]`, `[O, R]`. `bias`, `scale`: O or None."""
        super().__init__()
        self.weight = weight
        self.factor = factor
        self.scale = nn.Parameter(torch.ones(scale)) if scale else None
        self.bias = _bias(bias)

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        if self.factor is not None:
            x = F.linear(_activations(x, self.factor), self.factor())
        x = _activations(x, self.weight)
        if self.scale is None:
            return F.linear(x, self.weight(), self.bias)
        y = F.linear(x, self.weight()) * self.scale
        return y if self.bias is None else y + self.bias

    def matrix(self) -> Float[Tensor, "O I"]:
        """The map without its bias, as one matrix."""
        matrix = self.weight() if self.factor is None else self.weight() @ self.factor()
        return matrix if self.scale is None else matrix * self.scale.unsqueeze(1)


class Embedding(nn.Module):
    """Rows of a stored matrix `[V, O]`; a negative id gives zeros (the context before a start)."""

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, ids: Int[Tensor, "*B"]) -> Float[Tensor, "*B O"]:
        rows = F.embedding(ids.clamp(min=0), self.weight())
        return rows * (ids >= 0).unsqueeze(-1).to(rows.dtype)


class Conv1d(nn.Module):
    """Depthwise convolution over time with no padding of its own: the caller prepends the past."""

    def __init__(self, weight: Weight, bias: int | None) -> None:
        """`weight` is `[O, K]`: one kernel of K taps a channel."""
        super().__init__()
        self.weight = weight
        self.bias = _bias(bias)

    def forward(self, x: Float[Tensor, "B T_in O"]) -> Float[Tensor, "B T_out O"]:
        """T_out = T_in - K + 1."""
        kernel = self.weight()
        y = F.conv1d(x.transpose(1, 2), kernel.unsqueeze(1), self.bias, groups=kernel.shape[0])
        return y.transpose(1, 2)
