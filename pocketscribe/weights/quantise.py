"""Few-bit integers in place of weights, and the same integers as floats for training.

Per output channel, or per block of weights along fan-in (sub-channel), symmetric or not:

    symmetric    w = scale q          q in [-(2^(b-1) - 1), 2^(b-1) - 1]
    asymmetric   w = scale q + low    q in [0, 2^b - 1]

Scales and lows are float16 wherever they are used, so that a file that stores them in float16
gives back what training saw, bit for bit. Ding et al. 2023, "USM-Lite" (arXiv 2312.08553) quantise
per channel and symmetrically; blocks, lows and a searched clip are what 2 bits need beyond that
(arXiv 2305.16619).

Dimensions: O outputs, I fan-in, G blocks of K along fan-in (K = I without blocks).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

LEAST_SCALE = 2.0**-24  # the smallest number that float16 holds
CLIPS = tuple(0.05 * k for k in range(20, 3, -1))  # shares of the largest magnitude, 1 first


class Grid(NamedTuple):
    """How weights become integers.

    Attributes:
        bits: of each integer.
        symmetric: integers on both sides of 0 with a scale alone, instead of a scale and a lowest.
        block: weights along fan-in that share a scale; None is a whole output channel.
        search: look for the clip with the least squared error in each block, instead of the
            largest magnitude (or the extremes).
    """

    bits: int
    symmetric: bool = True
    block: int | None = None
    search: bool = False

    @property
    def levels(self) -> tuple[int, int]:
        """Smallest and largest integer."""
        top = 2 ** (self.bits - 1) - 1
        return (-top, top) if self.symmetric else (0, 2**self.bits - 1)


class Quantised(NamedTuple):
    """Integers with what turns them back into weights."""

    codes: Int[Tensor, "O I"]
    scale: Float[Tensor, "O G"]
    low: Float[Tensor, "O G"] | None  # None where the grid is symmetric
    block: int

    def weight(self) -> Float[Tensor, "O I"]:
        """The weights that the integers stand for, in float32."""
        blocks = _blocks(self.codes.float(), self.block)
        value = blocks * self.scale.float().unsqueeze(-1)
        if self.low is not None:
            value = value + self.low.float().unsqueeze(-1)
        return value.flatten(1)[:, : self.codes.shape[1]]


@torch.no_grad()
def quantise(weight: Float[Tensor, "O I"], grid: Grid) -> Quantised:
    """The nearest integers on a grid; deterministic, so that a file holds what training saw."""
    block = grid.block or weight.shape[1]
    blocks = _blocks(weight.detach(), block)
    least, most = _range(blocks, grid)
    best = _fit(least, most, grid)
    if grid.search:
        error = _error(blocks, *best, grid)
        for clip in CLIPS[1:]:
            tried = _fit(clip * least, clip * most, grid)
            other = _error(blocks, *tried, grid)
            better = other < error
            error = torch.where(better, other, error)
            best = (
                torch.where(better, tried[0], best[0]),
                torch.where(better, tried[1], best[1]),
            )
    scale, offset = best
    codes = _codes(blocks, scale, offset, grid).flatten(1)[:, : weight.shape[1]]
    low = None if grid.symmetric else offset.half()
    return Quantised(codes.to(torch.int16), scale.half(), low, block)


def fake_quantise(weight: Float[Tensor, "O I"], grid: Grid) -> Float[Tensor, "O I"]:
    """The quantised weights, through which gradients pass as if nothing had happened."""
    # In this order the value is the quantised one to the last bit: what is added to it is zero.
    return quantise(weight, grid).weight() + (weight - weight.detach())


def fake_quantise_rows(x: Float[Tensor, "*B I"], bits: int) -> Float[Tensor, "*B I"]:
    """Activations as a dynamic integer kernel sees them: symmetric, one scale a row.

    Straight-through like weights; nothing is clipped, since the largest sets the scale.
    """
    top = 2 ** (bits - 1) - 1
    with torch.no_grad():
        # Not in bfloat16, where the largest over its own scale is up to 1% off.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        # A row of zeros has any scale but one that a machine may flush to zero.
        scale = (wide.abs().amax(-1, keepdim=True) / top).clamp(min=torch.finfo(wide.dtype).tiny)
        error = ((wide / scale).round() * scale).to(x.dtype) - x
    return x + error


def _blocks(weight: Float[Tensor, "O I"], size: int) -> Float[Tensor, "O G K"]:
    """Blocks along fan-in; the last one filled up with zeros, which every grid has."""
    return F.pad(weight, (0, -weight.shape[1] % size)).unflatten(1, (-1, size))


def _range(
    blocks: Float[Tensor, "O G K"], grid: Grid
) -> tuple[Float[Tensor, "O G"], Float[Tensor, "O G"]]:
    if grid.symmetric:
        high = blocks.abs().amax(-1)
        return -high, high
    # Zero lies within: what N:M pruned must come back as nothing.
    return blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)


def _fit(
    low: Float[Tensor, "O G"], high: Float[Tensor, "O G"], grid: Grid
) -> tuple[Float[Tensor, "O G"], Float[Tensor, "O G"]]:
    """Scale and offset that span [low, high], as float16 holds them."""
    bottom, top = grid.levels
    scale = (high - low) / (top - bottom)
    # A block of zeros has any scale but zero.
    scale = scale.clamp(min=LEAST_SCALE).half().float()
    offset = torch.zeros_like(low) if grid.symmetric else low.half().float()
    return scale, offset


def _codes(
    blocks: Float[Tensor, "O G K"], scale: Tensor, offset: Tensor, grid: Grid
) -> Float[Tensor, "O G K"]:
    steps = (blocks - offset.unsqueeze(-1)) / scale.unsqueeze(-1)
    return steps.round().clamp(*grid.levels)


def _error(
    blocks: Float[Tensor, "O G K"], scale: Tensor, offset: Tensor, grid: Grid
) -> Float[Tensor, "O G"]:
    codes = _codes(blocks, scale, offset, grid)
    found = codes * scale.unsqueeze(-1) + offset.unsqueeze(-1)
    return (found - blocks).square().sum(-1)
