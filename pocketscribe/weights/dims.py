"""Named dimensions: the sizes that tensors have in common, and that a smaller model has less of.

A model's width is one dimension of a hundred tensors: to keep some of its channels, norms, biases,
scales and every matrix that reads or writes them keep the same ones. Layers ask for linear maps
between dimensions, not between numbers, so that choosing channels happens in one place.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Dim:
    """A dimension of `size` units.

    Attributes:
        name: tensors with a dimension of one name keep the same of its units.
        unit: numbers that stay together and lie side by side, such as a head's channels.
        repeat: how often the whole dimension lies side by side, as in stacked frames.
    """

    name: str
    size: int
    unit: int = 1
    repeat: int = 1

    def __len__(self) -> int:
        """Numbers along such an axis."""
        return self.size * self.unit * self.repeat

    def places(self, kept: Int[Tensor, " K"]) -> Int[Tensor, " N"]:
        """Where the numbers of some units lie along an axis, N = K x unit x repeat."""
        within = torch.arange(self.unit)
        starts = torch.arange(self.repeat)[:, None, None] * self.size * self.unit
        return (starts + kept[:, None] * self.unit + within).flatten()

    def per_unit(self, numbers: Tensor) -> Tensor:
        """The sums `[size]` over each unit's numbers along an axis `[len]`."""
        return numbers.view(self.repeat, self.size, self.unit).sum((0, 2))


Size = int | Dim  # a number alone is nobody else's, and stays whole


def dim(size: Size) -> Dim:
    return Dim("", size) if isinstance(size, int) else size


@dataclass(frozen=True)
class Sized:
    """One tensor of a module, and the dimension of each of its axes."""

    module: nn.Module
    attribute: str
    dims: tuple[Dim, ...]

    @property
    def tensor(self) -> Tensor:
        return getattr(self.module, self.attribute)


class Dims:
    """What is known of a model's tensors: which axis of which is which dimension."""

    def __init__(self) -> None:
        self._sized: dict[tuple[int, str], Sized] = {}  # by module and attribute
        self._one: dict[str, str] = {}  # name -> the name that it goes by
        self._fixed: set[str] = set()

    @property
    def sized(self) -> Collection[Sized]:
        """Every tensor, once."""
        return self._sized.values()

    def add(self, module: nn.Module, **axes: tuple[Size, ...]) -> None:
        """Says what the axes of some of a module's tensors are; again where it is shared.

        A shared tensor's dimensions are one, whatever its layers call them; where they do not
        have the same units they stay whole.
        """
        for attribute, sizes in axes.items():
            if getattr(module, attribute) is None:
                continue
            dims = tuple(map(dim, sizes))
            made = Sized(module, attribute, dims)
            known = self._sized.setdefault((id(module), attribute), made)
            if known is made:
                continue
            for first, other in zip(known.dims, dims, strict=True):
                alike = replace(first, name="") == replace(other, name="")
                if alike and self.name(first) and self.name(other):
                    self._one[self.name(other)] = self.name(first)
                else:
                    self._fixed |= {first.name, other.name}

    def name(self, dim: Dim) -> str:
        """What a dimension goes by; nothing for one that stays whole."""
        name = dim.name
        while (other := self._one.get(name, name)) != name:
            name = other
        return "" if name in self._fixed or dim.name in self._fixed else name

    def named(self, model: nn.Module) -> Iterator[tuple[str, Sized]]:
        """Each tensor's first name in a model, as in its `named_parameters`."""
        paths: dict[int, str] = {}
        for path, module in model.named_modules():
            paths.setdefault(id(module), path)
        for sized in self.sized:
            if (path := paths.get(id(sized.module))) is not None:
                yield f"{path}.{sized.attribute}", sized

    def sizes(self) -> Mapping[str, int]:
        """Units of every dimension, by the name that it goes by."""
        found = {self.name(dim): dim.size for sized in self.sized for dim in sized.dims}
        return {name: size for name, size in found.items() if name}
