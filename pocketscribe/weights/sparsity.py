"""N:M sparsity: of each M consecutive weights along fan-in, the N largest stay.

Ding et al. 2023, "USM-Lite", arXiv 2312.08553: the mask is taken from magnitudes, before anything
is quantised. Since N >= 1 keeps the largest of a group, a symmetric scale does not change by it.

Dimensions: O outputs, I fan-in, G groups of M, M group, N kept.
"""

import re

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

PATTERN = r"^\d+:\d+$"
LARGEST_GROUP = 16


def parse(sparsity: str) -> tuple[int, int]:
    """N and M of a pattern such as 2:4.

    Raises:
        ValueError: it is not N:M with 1 <= N < M <= 16.
    """
    if re.match(PATTERN, sparsity):
        kept, group = map(int, sparsity.split(":"))
        if 1 <= kept < group <= LARGEST_GROUP:
            return kept, group
    raise ValueError(f"sparsity = {sparsity!r}: write N:M with 1 <= N < M <= {LARGEST_GROUP}")


def mask(weight: Float[Tensor, "O I"], kept: int, group: int) -> Bool[Tensor, "O I"]:
    """True for the `kept` largest magnitudes of every `group` along fan-in."""
    return group_mask(weight, kept, group).flatten(1)[:, : weight.shape[1]]


def group_mask(weight: Float[Tensor, "O I"], kept: int, group: int) -> Bool[Tensor, "O G M"]:
    """The same in groups, of which each has exactly `kept`: a last one counts as filled with zeros.

    Of equal magnitudes the first stay, on every machine: a file must give back this very mask. So
    each place is ranked by comparing it with every other one, three times as fast as sorting.
    """
    size = F.pad(weight.detach().abs(), (0, -weight.shape[1] % group)).unflatten(1, (-1, group))
    places = size.unbind(-1)
    chosen = torch.empty_like(size, dtype=torch.bool)
    for i, here in enumerate(places):
        larger = torch.zeros_like(here, dtype=torch.uint8)
        for j, other in enumerate(places):
            if j != i:
                larger += other >= here if j < i else other > here
        chosen[..., i] = larger < kept
    return chosen
