"""One stored tensor and what becomes of it on its way to a multiplication.

    stored tensor -> masked N:M -> quantised -> what a layer multiplies by

Each step is optional and one small module. A sub-network's slice (`models/subnets.py`) takes the
place of the stored tensor.
"""

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pocketscribe.weights.format import Format
from pocketscribe.weights.packing import Parts, integers, pack, unpack
from pocketscribe.weights.panels import panels_bytes
from pocketscribe.weights.quantise import Quantised, fake_quantise
from pocketscribe.weights.sparsity import mask

PruneGradient = Literal["masked", "straight_through"]


class Pipeline(nn.Module):
    """What a stored matrix `[out, fan_in]` goes through; subclasses hold the matrix itself.

    fan_in is the axis that a multiplication sums over: masks and sub-channel scales run along it.

    Attributes:
        stored: the matrix before all that.
        format: how the matrix is pruned and quantised on its way.
        pattern: the N:M in force, which a schedule may raise step by step to the format's.
        grid: the grid in force, which may be a finer one than the format's for a step.
        fixed_mask: a mask that no longer follows the magnitudes; None takes it anew at each use.
        prune_gradient: whether pruned weights get a gradient: "masked" ones do not.
        parts: what a file held of it; the matrix then is what they stand for, and ready to use.
    """

    stored: Tensor

    def __init__(self, key: str, format: Format) -> None:
        super().__init__()
        self.key = key
        self.format = format
        self.pattern = self.format.pattern
        self.grid = self.format.grid
        self.prune_gradient: PruneGradient = "masked"
        self.fixed_mask: Bool[Tensor, "out fan_in"] | None = None  # no buffer: it never ships
        self.parts: Parts | None = None
        self.once = False  # set by `formatted_once`
        self._last: _Made | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and fan-in."""
        out, fan_in = self.stored.shape
        return out, fan_in

    def matrix(self) -> Float[Tensor, "out fan_in"]:
        """What a layer multiplies by."""
        if self.format.plain or self.parts is not None:
            return self.stored
        if torch.is_grad_enabled() and not self.once:
            self.forget()
            return self._formatted()
        return self._kept()  # streaming multiplies by it thousands of times

    def forget(self) -> None:
        """Drops the matrix that is kept, and with it its autograd graph."""
        self._last = None

    def _kept(self) -> Float[Tensor, "out fan_in"]:
        """The last matrix, as long as nothing has changed that it was made from."""
        stored, fixed, grad = self.stored, self.fixed_mask, torch.is_grad_enabled()
        # A tensor made in inference mode could never be used in training.
        with torch.inference_mode(False), torch.set_grad_enabled(grad):
            if stored.is_inference() or (fixed is not None and fixed.is_inference()):
                return self._formatted()  # such tensors do not count their changes
            made_from = (
                (stored.data_ptr(), stored._version, stored.dtype, stored.device),
                (id(fixed), None if fixed is None else fixed._version, self.pattern, self.grid),
                grad and (stored.requires_grad, self.prune_gradient),
            )
            if self._last is None or self._last.made_from != made_from:
                self._last = _Made(self._formatted(), made_from, (stored.detach(), fixed))
            return self._last.matrix

    @torch.no_grad()
    def read(self, parts: Parts) -> None:
        """Takes the matrix from what `packing.pack` made of it.

        Raises:
            ValueError: the parts are not those of this shape and format.
        """
        self.stored.copy_(unpack(parts, self.shape, self.format))
        self.parts = None if self.format.plain else parts

    def packed(self) -> Parts:
        """The matrix in its true bits, as a file holds it."""
        return self.parts or pack(self.stored, self.format)

    def integers(self) -> Quantised:
        """The integers of a quantised matrix, and what turns them back into weights."""
        return integers(self.packed(), self.shape, self.format)

    @property
    def packed_bytes(self) -> int:
        """How many bytes those are: a function of shape and format alone."""
        return panels_bytes(self.shape, self.format)

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
        if self.grid is not None:
            weight = fake_quantise(weight, self.grid)
            if kept is not None and not self.grid.symmetric:
                weight = weight * kept  # zero may be between two levels; what is pruned is zero
        if kept is not None and self.prune_gradient == "straight_through":
            weight = weight.detach() + (self.stored - self.stored.detach())
        return weight


class _Made(NamedTuple):
    """A matrix and what it was made from.

    `alive` holds on to the tensors that went in, so that no other can come to lie at their address.
    """

    matrix: Tensor
    made_from: tuple[Hashable, ...]
    alive: tuple[Tensor | None, ...]


class Weight(Pipeline):
    """A stored matrix of our own; several layers may hold the same object."""

    stored: nn.Parameter

    def __init__(
        self, key: str, out: int, fan_in: int, init_scale: float, format: Format | None = None
    ) -> None:
        """Draws the matrix uniformly with standard deviation `init_scale / sqrt(fan_in)`."""
        super().__init__(key, format or Format())
        bound = init_scale * (3 / fan_in) ** 0.5
        self.stored = nn.Parameter(torch.empty(out, fan_in).uniform_(-bound, bound))

    def forward(self) -> Float[Tensor, "out fan_in"]:
        return self.matrix()


class Transposed(nn.Module):
    """A stored matrix read the other way round: `[fan_in, out]`."""

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Float[Tensor, "fan_in out"]:
        return self.weight().T

    @property
    def format(self) -> Format:
        return self.weight.format


@contextmanager
def at_least(bits: int, weights: Iterable[Pipeline]) -> Iterator[None]:
    """Within, every grid has this many bits or more: one master weight serves several widths."""
    changed = [w for w in weights if w.grid is not None and w.grid.bits < bits]
    for weight in changed:
        assert weight.grid is not None
        weight.grid = weight.grid._replace(bits=bits)
    try:
        yield
    finally:
        for weight in changed:
            weight.grid = weight.format.grid


@contextmanager
def formatted_once(weights: Iterable[Pipeline]) -> Iterator[None]:
    """Within, each matrix is formatted once, and all its uses share one autograd graph.

    Shared weights are used many times in a forward. A backward frees the graph, so that each
    forward with a backward of its own wants a scope of its own; the backward may come after it.
    """
    changed = [w for w in weights if not w.once]
    for weight in changed:
        weight.once = True
    try:
        yield
    finally:
        for weight in changed:
            weight.once = False
            weight.forget()
