"""Causal x4 subsampling: 10 ms features in, 40 ms frames out.

Dimensions: B batch, T feature frames, S = T // 4 encoder frames, F mel bins, D encoder width.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pocketscribe.weights import Dim, Weights

FACTOR = 4
PAST = 3  # feature frames before a chunk that its first encoder frame still sees


class Subsampling(nn.Module):
    """Two 1-D convolutions (kernel 3, stride 2), each a linear map over three stacked frames.

    Encoder frame i sees features 4i-3 … 4i+3. A 2-D convolution stack spends a sixth of a 5M
    model's training step on a CPU; this spends a fiftieth, and compresses like any linear map.
    """

    def __init__(self, weights: Weights, name: str, mels: int, channels: int, width: Dim) -> None:
        super().__init__()
        inner = Dim(name, channels)
        self.conv1 = weights.linear(f"{name}.conv1", 3 * mels, inner)
        self.conv2 = weights.linear(f"{name}.conv2", replace(inner, repeat=3), width)
        # Without it the encoder starts on inputs a fifth of a residual branch's size, and training
        # stays on its first plateau for hours (docs/training.md).
        self.norm = weights.norm(width)

    def forward(
        self, x: Float[Tensor, "B T F"], past: Float[Tensor, "B 3 F"]
    ) -> Float[Tensor, "B S D"]:
        x = torch.cat([past, x], dim=1)
        x = F.silu(self.conv1(_stack(x)))
        return self.norm(self.conv2(_stack(x)))


def _stack(x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T2 C3"]:
    """Frames 2t, 2t+1, 2t+2 side by side."""
    count = (x.shape[1] - 3) // 2 + 1
    return torch.cat([x[:, k : k + 2 * count - 1 : 2] for k in range(3)], dim=-1)
