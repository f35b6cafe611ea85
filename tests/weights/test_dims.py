"""Named dimensions: where a unit's numbers lie, and which dimensions are one."""

from itertools import product

import pytest
import torch
from torch import nn

from pocketscribe.weights import Dim, Dims, RankRule, Sharing, Size, Weights


@pytest.mark.parametrize(("unit", "repeat"), product((1, 2, 3), (1, 2, 3)))
def test_units_lie_side_by_side_in_every_repeat(unit: int, repeat: int) -> None:
    channels = Dim("channels", 5, unit, repeat)
    kept = torch.tensor([3, 0, 4])
    places = channels.places(kept)
    assert places.tolist() == [
        (r * 5 + k) * unit + within
        for r in range(repeat)
        for k in kept.tolist()
        for within in range(unit)
    ]
    numbers = torch.arange(len(channels)) ** 2
    for k, total in enumerate(channels.per_unit(numbers).tolist()):
        assert total == numbers[channels.places(torch.tensor([k]))].sum()


@pytest.mark.parametrize(
    ("other", "sizes"),
    [
        (Dim("inner", 4), {"width": 4, "heads": 4}),
        (Dim("inner", 2, unit=2), {"heads": 4}),  # as many numbers, other units
        (4, {"heads": 4}),  # nobody else's
    ],
    ids=["alike", "other units", "a number"],
)
def test_a_shared_tensors_dimensions_are_one_or_stay_whole(
    other: Size, sizes: dict[str, int]
) -> None:
    dims, shared, apart = Dims(), nn.Linear(4, 4), nn.Linear(4, 3)
    dims.add(shared, weight=(Dim("width", 4), Dim("heads", 4)), bias=(Dim("width", 4),))
    dims.add(apart, weight=(3, other))
    dims.add(shared, weight=(other, Dim("heads", 4)))
    assert dims.sizes() == sizes
    assert len(dims.sized) == 3, "a shared tensor is one"
    if isinstance(other, Dim):
        assert (
            dims.name(other) == dims.name(Dim("width", 4)) == ("width" if other.unit == 1 else "")
        )


def test_every_axis_of_every_tensor_has_its_dimension() -> None:
    """Also of tensors that are stored the other way round, or in factors, or both."""
    a, b = Dim("a", 3, unit=2), Dim("b", 5)
    sharing = Sharing(tie=(("up", "down^T"), ("in", "out^T")))
    weights = Weights([RankRule(match="e.0.*t", rank=2), RankRule(match="e.0.in", rank=2)], sharing)
    model = nn.ModuleDict(
        {
            "down": weights.linear("e.0.down", b, a),
            "up": weights.linear("e.0.up", a, b, bias=False),
            "outer": weights.linear("e.0.out", b, a),
            "inner": weights.linear("e.0.in", a, b),
            "table": weights.embedding("table", 7, a),
            "kernel": weights.depthwise("kernel", b, 4),
            "norm": weights.norm(a),
        }
    )
    found = {name: tuple(d.name for d in sized.dims) for name, sized in weights.dims.named(model)}
    rank = "e.0.in.u x e.0.in.v"
    assert found == {
        "down.weight.weight.stored": ("b", "a"),
        "down.bias": ("a",),
        "outer.weight.weight.stored": (rank, "a"),
        "outer.factor.weight.stored": ("b", rank),
        "outer.bias": ("a",),
        "inner.bias": ("b",),
        "table.weight.stored": ("", "a"),
        "kernel.weight.stored": ("b", ""),
        "kernel.bias": ("b",),
        "norm.weight": ("a",),
        "norm.bias": ("a",),
    }
    assert weights.dims.sizes() == {"a": 3, "b": 5, rank: 2}
    for name, sized in weights.dims.named(model):
        assert sized.tensor is model.get_parameter(name)
        assert sized.tensor.shape == tuple(map(len, sized.dims))
