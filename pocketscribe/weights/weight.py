"""One stored tensor and what becomes of it on its way to a multiplication.

    stored tensor -> what a layer multiplies by

Between the two stand, each optional and each one small module: slice, N:M mask, quantiser.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Weight(nn.Module):
    """A stored matrix `[out, fan_in]`; several layers may hold the same object.

    fan_in is the axis that a multiplication sums over: masks and sub-channel scales run along it.
    """

    def __init__(self, key: str, out: int, fan_in: int, init_scale: float) -> None:
        """Draws the matrix uniformly with standard deviation `init_scale / sqrt(fan_in)`."""
        super().__init__()
        self.key = key
        bound = init_scale * (3 / fan_in) ** 0.5
        self.stored = nn.Parameter(torch.empty(out, fan_in).uniform_(-bound, bound))

    def forward(self) -> Float[Tensor, "out fan_in"]:
        return self.stored


class Transposed(nn.Module):
    """A stored matrix read the other way round: `[fan_in, out]`."""

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Float[Tensor, "fan_in out"]:
        return self.weight().T
