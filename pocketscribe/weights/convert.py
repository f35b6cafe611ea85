"""From trained weights to weights that are shared or factored otherwise: a start for fine-tuning.

A tensor that is to serve several layers starts as the mean of theirs; factors start as the balanced
singular value decomposition of what they are to replace, side by side where a factor is shared
(both are our reading of arXiv 2303.08343). A layer's private scale stays a scale where the target
has one for that layer, and goes into the matrix where it has none.
"""

from collections import defaultdict

import torch
from jaxtyping import Float
from torch import Tensor

from pocketscribe.errors import UserError
from pocketscribe.weights.store import Use, Weights


@torch.no_grad()
def convert(source: Weights, target: Weights) -> None:
    """Fills every stored tensor of `target` from the layers of `source` of the same names.

    Raises:
        UserError: a layer is missing in the source, or has another shape there.
    """
    _compare(source, target)
    plain: dict[int, list[str]] = defaultdict(list)
    factored: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name, use in target.uses.items():
        if use.factor is None:
            plain[id(use.weight)].append(name)
        else:
            factored[id(use.weight), id(use.factor)].append(name)
        if (scale := use.scale) is not None:
            theirs = source.uses[name].scale
            scale.copy_(torch.ones_like(scale) if theirs is None else theirs)
    for names in plain.values():
        target.uses[names[0]].weight.stored.copy_(_mean(names, source, target))
    for pairs in _connected(list(factored)):
        matrices = {pair: _mean(factored[pair], source, target) for pair in pairs}
        _factor({pair: target.uses[factored[pair][0]] for pair in pairs}, matrices)


def _compare(source: Weights, target: Weights) -> None:
    for name, here in target.uses.items():
        if name not in source.uses:
            raise UserError(f"{name}: the model to start from has no such layer")
        there = source.uses[name]
        if here.shape != there.shape:
            raise UserError(
                f"{name}: {here.shape} here, {there.shape} in the model to start from; "
                "only sharing, rank and format may change, not sizes"
            )


def _mean(names: list[str], source: Weights, target: Weights) -> Float[Tensor, "O I"]:
    """The mean of the layers' matrices, each the way round in which it will be stored."""
    found = []
    for name in names:
        here, there = target.uses[name], source.uses[name]
        matrix = matrix_of(there)
        if there.scale is not None and here.scale is None:
            matrix = matrix * there.scale.unsqueeze(1)
        found.append(matrix.T if here.key.transposed else matrix)
    return torch.stack(found).mean(0)


def matrix_of(use: Use) -> Float[Tensor, "O I"]:
    """What is stored for a layer, as one matrix, without its private scale."""
    matrix: Tensor = use.weight.stored
    if use.factor is not None:
        matrix = matrix @ use.factor.stored
    return matrix.T if use.key.transposed else matrix


def _connected(pairs: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Pairs (U, V) in groups with one U or one V: sharing one factor is all that a spec can ask."""
    by_u: dict[int, list[tuple[int, int]]] = defaultdict(list)
    by_v: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for u, v in pairs:
        by_u[u].append((u, v))
        by_v[v].append((u, v))
    groups = [group for group in by_u.values() if len(group) > 1]
    groups += [group for group in by_v.values() if len(group) > 1]
    return groups + [[(u, v)] for u, v in pairs if len(by_u[u]) == len(by_v[v]) == 1]


def _factor(
    uses: dict[tuple[int, int], Use], matrices: dict[tuple[int, int], Float[Tensor, "O I"]]
) -> None:
    """Balanced factors of the matrices side by side (one U), or on top of each other (one V)."""
    one_u = len({u for u, _ in uses}) == 1
    whole = torch.cat(list(matrices.values()), dim=1 if one_u else 0)
    left, s, right = torch.linalg.svd(whole, full_matrices=False)
    use = next(iter(uses.values()))
    rank = use.weight.shape[1]
    root = s[:rank].sqrt()
    u, v = left[:, :rank] * root, root.unsqueeze(1) * right[:rank]
    count = len(uses)
    us = [u] * count if one_u else list(u.chunk(count, dim=0))
    vs = list(v.chunk(count, dim=1)) if one_u else [v] * count
    for use, u_part, v_part in zip(uses.values(), us, vs, strict=True):
        assert use.factor is not None
        use.weight.stored.copy_(u_part)
        use.factor.stored.copy_(v_part)
