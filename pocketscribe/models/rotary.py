"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864): scores depend on i - j alone.

Dimensions: B batch, H heads, S frames, E half of a head's width.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Rotation(NamedTuple):
    """Cosine and sine of each position's angles, `[S, E]`."""

    cos: Tensor
    sin: Tensor

    def last(self, count: int) -> "Rotation":
        """The rotation of the last `count` positions."""
        start = self.cos.shape[0] - count
        return Rotation(self.cos[start:], self.sin[start:])


def rotation(length: int, head_width: int, like: Tensor) -> Rotation:
    """Angles position / 10000^(e/E) for `length` positions."""
    half = head_width // 2
    exponent = torch.arange(half, device=like.device, dtype=torch.float32) / half
    position = torch.arange(length, device=like.device, dtype=torch.float32)
    angle = position.unsqueeze(1) * 10000.0**-exponent
    return Rotation(angle.cos(), angle.sin())


def rotate(x: Float[Tensor, "B H S E2"], turn: Rotation) -> Float[Tensor, "B H S E2"]:
    """Turns each pair (x[e], x[e + E]) by its angle."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = turn.cos.to(x.dtype), turn.sin.to(x.dtype)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
