"""One map from a layer's weight to the tensor that is stored for it: all sharing there is.

Hernandez et al. 2023, "Sharing Low-Rank Conformer Weights for Tiny Always-On Ambient Speech
Recognition Models", arXiv 2303.08343, reuse weights at four levels. Here each level is a step in
computing a key, and two weights with equal keys are one tensor:

    (i)   blocks      layer l of a stack uses block l mod B, or l div (L / B)
    (ii)  share       chosen modules use the same layer's throughout a group, or the whole stack
    (iii) tie         parts of one layer use the same tensor, also transposed
    (iv)  factors     U or V of a low-rank weight is shared by layers (`WeightSpec.share_factor`)

A stack is whatever has a number in its name: "encoder.blocks.7.ffn1.up" is "ffn1.up" in layer 7 of
"encoder.blocks". Nothing here knows what kind of encoder that is.
"""

import re
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pocketscribe.config import Config
from pocketscribe.weights.spec import Across

TRANSPOSED = "^T"


class Share(Config):
    """Level (ii): these modules are one in all layers, or in groups of consecutive layers."""

    modules: tuple[str, ...] = Field(min_length=1, max_length=30)
    across: Across = "all"


class Sharing(Config):
    """Which weights of a stack of layers are one stored tensor.

    Norms, biases and per-layer scales always stay each layer's own.

    Attributes:
        blocks: stored blocks that the layers repeat; None stores every layer.
        order: "cyclic" runs through all blocks again and again, "consecutive" repeats each block
            before the next.
        share: module names within a layer and the layers that have them in common; goes before
            `blocks`, first match wins.
        tie: names within a layer that use one tensor, the first one's; `name^T` uses it transposed.
    """

    blocks: int | None = Field(default=None, gt=0)
    order: Literal["cyclic", "consecutive"] = "cyclic"
    share: tuple[Share, ...] = Field(default=(), max_length=30)
    tie: tuple[Annotated[tuple[str, ...], Field(max_length=30)], ...] = Field(
        default=(), max_length=30
    )

    @model_validator(mode="after")
    def _check(self) -> "Sharing":
        for group in self.tie:
            if len(group) < 2:
                raise ValueError(f"tie = {list(group)}: a tie has two members or more")
            if group[0].endswith(TRANSPOSED):
                raise ValueError(f"tie: {group[0]!r} comes first and so is stored as it is, not ^T")
            for other in (member.removesuffix(TRANSPOSED) for member in group[1:]):
                for module in (m for share in self.share for m in share.modules):
                    if names(module, other):
                        raise ValueError(
                            f"share names {module!r}, which tie makes {group[0]!r}; share that"
                        )
        return self

    def check(self, layers: int) -> None:
        """Raises ValueError where the layers cannot be made of whole repetitions of the blocks."""
        if self.blocks is not None and layers % self.blocks:
            raise ValueError(
                f"sharing.blocks = {self.blocks} must divide encoder.layers = {layers}"
            )

    def key(self, name: str, layers: int) -> "Key":
        """The tensor that serves the weight `name` in a stack of `layers` layers."""
        found = re.match(r"(.+?)\.(\d+)\.(.+)", name)
        if found is None:
            return Key(name)
        stack, layer, inside = found[1], int(found[2]), found[3]
        inside, transposed = self._tied(inside)
        return Key(inside, stack, self._layer(inside, layer, layers), transposed)

    def _tied(self, inside: str) -> tuple[str, bool]:
        for first, *others in self.tie:
            for other in others:
                rest = _inside(inside, other.removesuffix(TRANSPOSED))
                if rest is not None:
                    return first + rest, other.endswith(TRANSPOSED)
        return inside, False

    def _layer(self, inside: str, layer: int, layers: int) -> int:
        for share in self.share:
            if any(_inside(inside, module) is not None for module in share.modules):
                return group_of(layer, share.across)
        if self.blocks is None:
            return layer
        if self.order == "cyclic":
            return layer % self.blocks
        return layer // (layers // self.blocks)

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module that is named here, to be checked against those that exist."""
        named = [m for share in self.share for m in share.modules]
        named += [m.removesuffix(TRANSPOSED) for group in self.tie for m in group]
        return tuple(dict.fromkeys(named))


@dataclass(frozen=True)
class Key:
    """Names one stored tensor; `transposed` says how a use of it reads it."""

    inside: str
    stack: str | None = None
    layer: int = 0
    transposed: bool = False

    def __str__(self) -> str:
        return self.inside if self.stack is None else f"{self.stack}.{self.layer}.{self.inside}"

    def factor(self, which: str, across: Across | None) -> str:
        """The key of factor "u" or "v"; `across` groups the layers whose tensor this names."""
        layer = self.layer if across is None else group_of(self.layer, across)
        return f"{replace(self, layer=layer)}.{which}"


def group_of(layer: int, across: Across) -> int:
    """A group of consecutive layers goes by its first layer."""
    return 0 if across == "all" else layer // across * across


def _inside(name: str, module: str) -> str | None:
    """What follows the module in a name within it (nothing if it is the module), else None."""
    if name == module or name.startswith(f"{module}."):
        return name[len(module) :]
    return None


def names(inside: str, module: str) -> bool:
    """Whether a name within a layer is that module or lies within it."""
    return _inside(inside, module) is not None
