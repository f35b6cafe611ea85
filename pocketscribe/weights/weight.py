"""One stored tensor and what becomes of it on its way to a multiplication.

    stored tensor -> masked N:M -> quantised -> what a layer multiplies by

A slice will stand before the mask; each step is optional and one small module.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pocketscribe.weights.format import Format
from pocketscribe.weights.quantise import fake_quantise
from pocketscribe.weights.sparsity import mask

PruneGradient = Literal["masked", "straight_through"]


class Weight(nn.Module):
    """A stored matrix `[out, fan_in]`; several layers may hold the same object.

    fan_in is the axis that a multiplication sums over: masks and sub-channel scales run along it.

    Attributes:
        format: how the matrix is pruned and quantised on its way; plain floats at first.
        pattern: the N:M in force, which a schedule may raise step by step to the format's.
        fixed_mask: a mask that no longer follows the magnitudes; None takes it anew at each use.
        prune_gradient: whether pruned weights get a gradient: "masked" ones do not.
    """

    def __init__(
        self, key: str, out: int, fan_in: int, init_scale: float, format: Format | None = None
    ) -> None:
        """Draws the matrix uniformly with standard deviation `init_scale / sqrt(fan_in)`."""
        super().__init__()
        self.key = key
        self.format = format or Format()
        self.pattern = self.format.pattern
        self.prune_gradient: PruneGradient = "masked"
        self.fixed_mask: Bool[Tensor, "out fan_in"] | None = None  # no buffer: it never ships
        bound = init_scale * (3 / fan_in) ** 0.5
        self.stored = nn.Parameter(torch.empty(out, fan_in).uniform_(-bound, bound))
        self._cached: tuple[int, Tensor] | None = None

    def forward(self) -> Float[Tensor, "out fan_in"]:
        if self.format == PLAIN:
            return self.stored
        if torch.is_grad_enabled():
            self._cached = None
            return self._formatted()
        # Streaming multiplies by it thousands of times; a change in place raises the version.
        version = self.stored._version
        if self._cached is None or self._cached[0] != version:
            self._cached = (version, self._formatted())
        return self._cached[1]

    def mask(self) -> Bool[Tensor, "out fan_in"] | None:
        """What is kept, or None where everything is."""
        if self.fixed_mask is not None or self.pattern is None:
            return self.fixed_mask
        return mask(self.stored, *self.pattern)

    def _formatted(self) -> Float[Tensor, "out fan_in"]:
        weight: Tensor = self.stored
        kept = self.mask()
        if kept is not None:
            weight = weight * kept
        if (grid := self.format.grid) is not None:
            weight = fake_quantise(weight, grid)
            if kept is not None and not grid.symmetric:
                weight = weight * kept  # zero may be between two levels; what is pruned is zero
        if kept is not None and self.prune_gradient == "straight_through":
            weight = weight.detach() + (self.stored - self.stored.detach())
        return weight


class Transposed(nn.Module):
    """A stored matrix read the other way round: `[fan_in, out]`."""

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Float[Tensor, "fan_in out"]:
        return self.weight().T


PLAIN = Format()
