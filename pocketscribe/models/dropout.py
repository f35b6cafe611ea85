"""Dropout whose random numbers are cheap on a CPU."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Module):
    """Inverted dropout. On a CPU eight elements share one 64-bit random number.

    `torch`'s own kernel draws a double an element, a third of a Conformer's training step. The
    probability is rounded to 1/256, and the scale follows the rounded one.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = round(self.p * 256)
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        # The scale is not rounded to bfloat16, which has but two digits of it.
        wide = torch.promote_types(x.dtype, torch.float32)
        return (x * keep.to(wide).mul_(256 / (256 - dropped))).to(x.dtype)
