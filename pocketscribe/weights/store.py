"""Where layers come from: a model asks for a layer by name and never touches a weight itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import nn

from pocketscribe.errors import UserError
from pocketscribe.weights.dims import Dim, Dims, Size, dim
from pocketscribe.weights.format import Format, FormatRule
from pocketscribe.weights.layers import Conv1d, Embedding, Linear
from pocketscribe.weights.rules import check_rules, first_match, resolve
from pocketscribe.weights.sharing import Across, Key, Sharing, names
from pocketscribe.weights.spec import RankRule, WeightSpec
from pocketscribe.weights.weight import Transposed, Weight

UNIT_VARIANCE = 3**-0.5  # of the inputs' sum: half of it reaches the output's variance


class Weights:
    """Hands out layers by name, each built on the stored tensors that its spec asks for.

    Two weights whose keys are equal get the same `Weight` object: that is all there is to sharing,
    in training as in every file.
    """

    def __init__(
        self,
        rules: Sequence[RankRule] = (),
        sharing: Sharing | None = None,
        layers: int = 1,
        formats: Sequence[FormatRule] = (),
    ) -> None:
        """`layers` is how many a stack of layers has."""
        self.rules = tuple(rules)
        self.formats = tuple(formats)
        self.sharing = sharing or Sharing()
        self.layers = layers
        self.stored: dict[str, Weight] = {}
        self.uses: dict[str, Use] = {}
        self._factors_of: dict[str, Across | None] = {}  # each factor's group of layers
        self.dims = Dims()
        self._specs: dict[str, tuple[str, WeightSpec]] = {}  # by key, with who asked first

    def linear(self, name: str, fan_in: Size, out: Size, *, bias: bool = True) -> Linear:
        """A linear map between two dimensions (pointwise convolutions are linear maps).

        Raises:
            UserError: it is to share a tensor of another shape.
        """
        ins, outs = dim(fan_in), dim(out)
        shape = len(outs), len(ins)
        spec, key = self._asked(name)
        bias_width, scale = len(outs) if bias else None, len(outs) if spec.scale else None
        if spec.rank is None:
            weight, factor = self._weight(str(key), *shape, name, key.transposed), None
            layer = Linear(_read(weight, key), bias_width, None, scale)
            self.dims.add(weight, stored=(ins, outs) if key.transposed else (outs, ins))
        else:
            weight, factor = self._factors(name, key, len(ins), len(outs), spec)
            left, right = (factor, weight) if key.transposed else (weight, factor)
            layer = Linear(_read(left, key), bias_width, _read(right, key), scale)
            rank = Dim(f"{weight.key} x {factor.key}", factor.shape[0])
            self.dims.add(weight, stored=(ins if key.transposed else outs, rank))
            self.dims.add(factor, stored=(rank, outs if key.transposed else ins))
        self.dims.add(layer, bias=(outs,), scale=(outs,))
        self.uses[name] = Use(key, shape, spec, weight, factor, layer)
        return layer

    def embedding(self, name: str, count: int, width: Size) -> Embedding:
        # Unit variance whatever the width: rows are looked up, not summed over.
        wide = dim(width)
        weight = self._plain(name, count, len(wide), init_scale=len(wide) ** 0.5)
        self.dims.add(weight, stored=(count, wide))
        return Embedding(weight)

    def depthwise(self, name: str, channels: Size, kernel: int, *, bias: bool = True) -> Conv1d:
        wide = dim(channels)
        weight = self._plain(name, len(wide), kernel)
        layer = Conv1d(weight, len(wide) if bias else None)
        self.dims.add(weight, stored=(wide, kernel))
        self.dims.add(layer, bias=(wide,))
        return layer

    def norm(self, width: Size) -> nn.LayerNorm:
        """Each layer's own, never shared."""
        layer = nn.LayerNorm(len(dim(width)))
        self.dims.add(layer, weight=(width,), bias=(width,))
        return layer

    def check(self) -> None:
        """To be called when all layers exist.

        Raises:
            UserError: sharing names what no layer is called, or a rule has no effect.
        """
        inside = sorted({use.key.inside for use in self.uses.values()} | self._insides())
        for module in self.sharing.modules:
            if not any(names(name, module) for name in inside):
                raise UserError(
                    f"model.sharing: no module is named {module!r} (there are: {', '.join(inside)})"
                )
        check_rules(self.rules, self.uses, "model.ranks")
        check_rules(self.formats, self.uses, "formats")
        for rule in self.rules:
            mine = {n: u for n, u in self.uses.items() if first_match(n, self.rules) is rule}
            if all(use.spec != resolve(name, self.rules, WeightSpec) for name, use in mine.items()):
                raise UserError(
                    f"model.ranks: match = {rule.match!r} has no effect: it fits no linear map"
                )

    def hints(self) -> Iterator[str]:
        """For each rank that saves nothing: from which one downwards its factors, as they are
        shared, would.
        """
        for rule in self.rules:
            mine = [u for n, u in self.uses.items() if first_match(n, self.rules) is rule]
            if rule.rank is not None:
                yield from self._useless(rule, rule.rank, [use for use in mine if use.factor])

    def _useless(self, rule: RankRule, rank: int, uses: Sequence["Use"]) -> Iterator[str]:
        for out, fan_in in sorted({u.shape for u in uses}):  # a narrow shape must not hide a wide
            alike = [u for u in uses if u.shape == (out, fan_in)]
            factors = {id(w): w for u in alike for w in (u.weight, u.factor) if w is not None}
            stored = sum(w.stored.numel() for w in factors.values())
            whole = len({str(u.key) for u in alike}) * out * fan_in
            if stored >= whole:
                yield (
                    f"model.ranks: rank {rank} for {rule.match!r} stores {stored:,} numbers "
                    f"of {out} x {fan_in} maps, plain matrices {whole:,}; "
                    f"a rank saves up to {ceil(whole * rank / stored) - 1}"
                )

    def _insides(self) -> set[str]:
        """Names within a layer before any tie, for whoever ties all of a module away."""
        free = Sharing()
        return {free.key(name, self.layers).inside for name in self.uses}

    def _asked(self, name: str) -> tuple[WeightSpec, Key]:
        spec, key = resolve(name, self.rules, WeightSpec), self.sharing.key(name, self.layers)
        stored = spec.model_copy(update={"scale": False})  # which is each layer's own
        first, other = self._specs.setdefault(str(key), (name, stored))
        if other != stored:
            raise UserError(
                f"{name}: is one with {first} by model.sharing, but model.ranks gives the two "
                "different ranks; one rule must match both"
            )
        return spec, key

    def _plain(self, name: str, out: int, fan_in: int, init_scale: float = UNIT_VARIANCE) -> Weight:
        """What is neither factored nor scaled: tables and kernels; transposing one is refused."""
        _, key = self._asked(name)
        if key.transposed:
            raise UserError(f"{name}: only a linear map can be used transposed")
        weight = self._weight(str(key), out, fan_in, name, init_scale=init_scale)
        self.uses[name] = Use(key, (out, fan_in), WeightSpec(), weight)
        return weight

    def _factors(
        self, name: str, key: Key, fan_in: int, out: int, spec: WeightSpec
    ) -> tuple[Weight, Weight]:
        """Balanced factors U√S, √S V of a full draw, so that training starts where it would.

        A layer that finds one factor made by another layer draws the other factor alone, as large
        as the first one's: independent draws have no directions in common, so that the subspace of
        one draw serves all as well as that of their concatenation.
        """
        assert spec.rank is not None
        if key.transposed:
            fan_in, out = out, fan_in
        rank = min(spec.rank, fan_in, out)
        groups = ((spec.across or "all") if f == spec.share_factor else None for f in ("u", "v"))
        u_key, v_key = (
            self._factor_key(name, key, which, across)
            for which, across in zip(("u", "v"), groups, strict=True)
        )
        new_u, new_v = u_key not in self.stored, v_key not in self.stored
        full = Weight("", out, fan_in, UNIT_VARIANCE).stored.detach() if new_u or new_v else None
        u = self._weight(u_key, out, rank, name)
        v = self._weight(v_key, rank, fan_in, name)
        if full is not None:
            left, s, right = torch.linalg.svd(full, full_matrices=False)
            root = s[:rank].sqrt()
            with torch.no_grad():
                if new_u:
                    u.stored.copy_(left[:, :rank] * root)
                if new_v:
                    v.stored.copy_(root.unsqueeze(1) * right[:rank])
        return u, v

    def _factor_key(self, name: str, key: Key, which: str, across: Across | None) -> str:
        """A group's factor goes by its first layer, whose own it must not be besides."""
        found = key.factor(which, across)
        if self._factors_of.setdefault(found, across) != across:
            raise UserError(
                f"{name}: its factor {which} is both shared and a layer's own: give the layers of "
                "a group (share_factor, across) one rule"
            )
        return found

    def _weight(
        self,
        key: str,
        out: int,
        fan_in: int,
        name: str,
        transposed: bool = False,
        init_scale: float = UNIT_VARIANCE,
    ) -> Weight:
        shape = (fan_in, out) if transposed else (out, fan_in)
        format = resolve(name, self.formats, Format).for_rows_of(shape[1])
        weight = self.stored.get(key)
        if weight is None:
            weight = self.stored[key] = Weight(key, *shape, init_scale, format)
        elif weight.format != format:
            raise UserError(
                f"{name}: shares the stored tensor {key}, but formats gives the two "
                "different formats; one tensor ships in one format"
            )
        elif weight.shape != shape:
            raise UserError(
                f"{name}: cannot share the stored {weight.shape} tensor {key} as "
                f"{shape}: tie only weights of one shape"
            )
        return weight


@dataclass(frozen=True)
class Use:
    """One layer's use of stored tensors: `factor` is V where `weight` is U.

    `shape` is the layer's `[out, fan_in]`, whichever way round the tensor is stored; `linear` is
    the layer itself if it is a linear map.
    """

    key: Key
    shape: tuple[int, int]
    spec: WeightSpec
    weight: Weight
    factor: Weight | None = None
    linear: Linear | None = None

    @property
    def scale(self) -> nn.Parameter | None:
        """The layer's own scale `[out]`, where it has one."""
        return None if self.linear is None else self.linear.scale


def _read(weight: Weight, key: Key) -> Weight | Transposed:
    return Transposed(weight) if key.transposed else weight
