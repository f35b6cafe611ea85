"""What a sub-network's file takes, without building the sub-network.

The bytes of a packed file are a sum over tensors; a tensor's are a function of its shape and
format, and its shape follows from the dimensions of its axes (`weights/dims.py`). Which choice
moves which dimension is found out once, by moving one choice at a time on the meta device.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import torch

from pocketscribe.models import Recogniser, deployed_tensors
from pocketscribe.models.cutting import LAYER
from pocketscribe.models.packed import float_types
from pocketscribe.models.subnets import Sizes, Space
from pocketscribe.weights import Dim, Format, FormatRule, panels_bytes, resolve

Rules = tuple[FormatRule, ...]


@dataclass(frozen=True)
class _Tensor:
    """One array of a file: `use` is the layer by whose name its format is found, if it has one."""

    dims: tuple[Dim, ...]
    item_bytes: int
    use: str | None


class FileBytes:
    """Bytes of all arrays in a sub-network's packed file, which is all of it but its header."""

    def __init__(self, space: Space, vocabulary: int) -> None:
        self.space = space

        def built(sizes: Sizes) -> Recogniser:
            with torch.device("meta"):
                config = space.sub_config(sizes).model_copy(update={"formats": ()})
                return Recogniser(config, vocabulary)

        largest = space.largest
        whole = built(largest).weights.dims.sizes()
        # Of a dimension: its size by gene and choice, where that alone makes it smaller.
        self._moved: dict[str, dict[str, dict[int, int]]] = {}
        for key, choices in space.choices.items():
            for choice in choices[:-1] if key != "layers" else ():
                inner = tuple(min(choice, own) for own in largest.inner)
                value = inner if key == "inner" else choice
                smaller = built(largest.model_copy(update={key: value}))
                for name, size in smaller.weights.dims.sizes().items():
                    if size != whole[name]:
                        self._moved.setdefault(name, {}).setdefault(key, {})[choice] = size
        self._tensors = {
            layers: list(_tensors(built(self.space.largest_of(layers))))
            for layers in space.choices["layers"]
        }
        self._bytes = cache(_array_bytes)

    def __call__(self, sizes: Sizes, rules: Rules) -> int:
        return sum(
            self._bytes(self._shape(tensor, sizes), tensor.item_bytes, tensor.use, rules)
            for tensor in self._tensors[sizes.layers]
        )

    def _shape(self, tensor: _Tensor, sizes: Sizes) -> tuple[int, ...]:
        return tuple(self._size(dim, sizes) * dim.unit * dim.repeat for dim in tensor.dims)

    def _size(self, dim: Dim, sizes: Sizes) -> int:
        """The least that a choice leaves of it: a rank is no larger than what it maps between."""
        size = dim.size
        for key, by_choice in self._moved.get(dim.name, {}).items():
            for choice in self._choices(key, dim, sizes):
                size = min(size, by_choice.get(choice, size))
        return size

    def _choices(self, key: str, dim: Dim, sizes: Sizes) -> Sequence[int]:
        if key != "inner":
            return [getattr(sizes, key)]
        layer = LAYER.match(dim.name)
        return sizes.inner if layer is None else [sizes.inner[int(layer[2])]]


def _tensors(model: Recogniser) -> Iterator[_Tensor]:
    dims = model.weights.dims
    first: dict[int, str] = {}  # by whose name a stored tensor's format is found
    for name, use in model.weights.uses.items():
        for weight in (use.weight, use.factor):
            if weight is not None:
                first.setdefault(id(weight), name)
    axes: Mapping[int, tuple[Dim, ...]] = {
        id(sized.tensor): tuple(Dim(dims.name(d), d.size, d.unit, d.repeat) for d in sized.dims)
        for sized in dims.sized
    }
    stored = {id(w.stored): first[id(w)] for w in model.weights.stored.values()}
    types = float_types(model)
    for name, tensor in deployed_tensors(model).items():
        whole = tuple(Dim("", size) for size in tensor.shape)
        found = axes.get(id(tensor), whole)
        yield _Tensor(found, types[name].itemsize, stored.get(id(tensor)))


def _array_bytes(shape: tuple[int, ...], item_bytes: int, use: str | None, rules: Rules) -> int:
    if use is None:
        return item_bytes * prod(shape)
    out, fan_in = shape
    return panels_bytes((out, fan_in), resolve(use, rules, Format).for_rows_of(fan_in))
