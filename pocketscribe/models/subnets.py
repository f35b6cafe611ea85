"""Sub-networks: smaller recognisers inside a large one, whose weights are the large one's first.

A sub-network is a config like any other, smaller in some dimensions: fewer layers (the first), a
narrower width, fewer heads, narrower insides of each layer. Its weights are slices from the start
of the large model's, whatever the layer, the encoder's family, the sharing or the rank, because
every axis of every tensor knows its dimension (`weights/dims.py`). So a sub-network that is sampled
in training computes what its stand-alone copy computes, to the bit.
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.models.recogniser import LETTERS, ModelConfig, Recogniser
from pocketscribe.weights import Dim, FormatRule

Choices = tuple[int, ...]


class SpaceConfig(Config):
    """Which sizes sub-networks may have; the model's own are always among them.

    Attributes:
        layers: how many, from the first.
        width: of the encoder.
        heads: of every layer, each as wide as the model's.
        inner: of each layer's feed-forward modules, each layer for itself.
        rank: of every factored map; a rule's own where that is less.
        predictor, joiner: widths.
    """

    layers: Choices = Field(default=(), max_length=100)
    width: Choices = Field(default=(), max_length=100)
    heads: Choices = Field(default=(), max_length=100)
    inner: Choices = Field(default=(), max_length=100)
    rank: Choices = Field(default=(), max_length=100)
    predictor: Choices = Field(default=(), max_length=100)
    joiner: Choices = Field(default=(), max_length=100)


class Sizes(Config):
    """One choice: a sub-network; `inner` of each layer, `rank` 0 where nothing is factored."""

    layers: int
    width: int
    heads: int
    inner: tuple[int, ...]
    rank: int
    predictor: int
    joiner: int


class Space:
    """The sub-networks of a model."""

    def __init__(self, model: Recogniser, config: SpaceConfig) -> None:
        """Raises UserError where a size is none of the model's."""
        self.config = model.config
        encoder = model.config.encoder
        own = {
            "layers": encoder.layers,
            "width": encoder.width,
            "heads": encoder.heads,
            "inner": max(encoder.insides),
            "rank": max((rule.rank or 0 for rule in model.config.ranks), default=0),
            "predictor": model.config.predictor,
            "joiner": model.config.joiner,
        }
        self.choices: dict[str, Choices] = {
            key: tuple(sorted({*getattr(config, key), largest})) for key, largest in own.items()
        }
        self.groups = _groups(model)
        self._check(own)

    def _check(self, own: Mapping[str, int]) -> None:
        config = self.config
        for key, sizes in self.choices.items():
            least = min(1, own[key])
            if sizes[0] < least or sizes[-1] > own[key]:
                wrong = sizes[0] if sizes[0] < least else sizes[-1]
                raise UserError(
                    f"supernet.{key}: {wrong} is no size of a model with {key} = {own[key]}"
                )
        blocks, order = config.sharing.blocks, config.sharing.order
        for count in self.choices["layers"]:
            if blocks is not None and (count % blocks or order == "consecutive"):
                raise UserError(
                    f"supernet.layers: {count} layers are no whole repetitions of sharing.blocks ="
                    f" {blocks}, from the first layer on"
                )
        self.check_formats(config.formats)

    def check_formats(self, rules: Sequence[FormatRule]) -> None:
        """Raises UserError where a size does not divide into groups of N:M."""
        insides = self.config.encoder.insides
        for pattern, of in [(rule.sparsity, rule.pattern[1]) for rule in rules if rule.pattern]:
            for key in ("width", "inner", "rank", "predictor", "joiner"):
                for size in {*self.choices[key], *(insides if key == "inner" else ())}:
                    if size % of:
                        raise UserError(
                            f"supernet.{key}: {size} does not divide into groups of {pattern}"
                        )
            channels = self.config.encoder.channels
            for heads in self.choices["heads"]:
                if heads * channels % of:
                    raise UserError(
                        f"supernet.heads: {heads} x {channels} channels do not divide into "
                        f"groups of {pattern}"
                    )

    @property
    def largest(self) -> Sizes:
        """The model itself."""
        chosen = {key: sizes[-1] for key, sizes in self.choices.items() if key != "inner"}
        return Sizes(inner=self.config.encoder.insides, **chosen)

    def largest_of(self, layers: int) -> Sizes:
        """The largest sub-network of so many layers."""
        largest = self.largest
        return largest.model_copy(update={"layers": layers, "inner": largest.inner[:layers]})

    @property
    def smallest(self) -> Sizes:
        return self.sizes(self.even(0.0))

    @property
    def genes(self) -> dict[str, Choices]:
        """What can be chosen, each for itself, and out of what: see `sizes`."""
        whole = {key: sizes for key, sizes in self.choices.items() if key != "inner"}
        groups = sorted(set(self.groups))
        return {**whole, **{f"inner {group}": self._insides(group) for group in groups}}

    def _insides(self, layer: int) -> Choices:
        """Of one layer: no wider than it is itself."""
        own = self.config.encoder.insides[layer]
        return (*(size for size in self.choices["inner"] if size < own), own)

    def sizes(self, genes: Mapping[str, int]) -> Sizes:
        """The sub-network of one choice a gene; of layers that it has not, choices say nothing."""
        chosen = {key: genes[key] for key in self.choices if key != "inner"}
        inner = [genes[f"inner {group}"] for group in self.groups[: chosen["layers"]]]
        return Sizes(inner=tuple(inner), **chosen)

    def even(self, share: float) -> dict[str, int]:
        """The genes of an evenly shrunk sub-network: of all sizes the one after `share` of them."""
        return {gene: sizes[round(share * (len(sizes) - 1))] for gene, sizes in self.genes.items()}

    def draw(self, generator: torch.Generator) -> Sizes:
        """A sub-network at random: every size of every dimension is as likely."""
        return self.sizes({gene: one_of(sizes, generator) for gene, sizes in self.genes.items()})

    def _check_sizes(self, sizes: Sizes) -> None:
        largest = self.largest.model_dump()
        for key, size in sizes.model_dump(exclude={"inner"}).items():
            if not min(1, largest[key]) <= size <= largest[key]:
                raise UserError(f"sizes.{key}: {size} is no size of {largest[key]} or less")
        widest = largest["inner"][: sizes.layers]
        if len(sizes.inner) != sizes.layers or not all(
            1 <= size <= most for size, most in zip(sizes.inner, widest, strict=True)
        ):
            raise UserError(
                f"sizes.inner: {list(sizes.inner)} are no sizes of {list(widest)} or less"
            )

    def sub_config(self, sizes: Sizes) -> ModelConfig:
        """The sub-network as a model of its own.

        Raises:
            UserError: those are sizes of no sub-network of this model; a file may claim any.
        """
        if sizes == self.largest:
            return self.config
        self._check_sizes(sizes)
        encoder = self.config.encoder.model_copy(
            update={
                "layers": sizes.layers,
                "width": sizes.width,
                "heads": sizes.heads,
                "head_width": self.config.encoder.channels,
                "inner": sizes.inner,
            }
        )
        ranks = tuple(
            rule
            if rule.rank is None
            else rule.model_copy(update={"rank": min(rule.rank, sizes.rank)})
            for rule in self.config.ranks
        )
        return self.config.model_copy(
            update={
                "encoder": encoder,
                "ranks": ranks,
                "predictor": sizes.predictor,
                "joiner": sizes.joiner,
            }
        )


def taken(config: ModelConfig, sizes: Sizes) -> ModelConfig:
    """A model's sub-network as a model of its own, asked by its config alone."""
    with torch.device("meta"):
        return Space(Recogniser(config, vocabulary=LETTERS), SpaceConfig()).sub_config(sizes)


def one_of(sizes: Choices, generator: torch.Generator) -> int:
    return sizes[int(torch.randint(len(sizes), (), generator=generator))]


def _groups(model: Recogniser) -> list[int]:
    """For each layer the first of those that have one width inside, because they share a tensor."""
    dims, count = model.weights.dims, model.config.encoder.layers
    names = [
        {dims.name(Dim(f"encoder.blocks.{i}.{ffn}", 0)) for ffn in ("ffn1", "ffn2")}
        for i in range(count)
    ]
    groups = list(range(count))
    for i in range(count):
        for j in range(i):
            if names[i] & names[j]:
                first, other = sorted((groups[i], groups[j]))
                groups = [first if group == other else group for group in groups]
    return groups


def sliced(large: Recogniser, small: Recogniser) -> dict[str, Tensor]:
    """The sub-network's parameters and buffers, by name, out of the large model's tensors.

    Gradients flow back to where the slices lie.
    """
    theirs = dict(large.weights.dims.named(large))
    found: dict[str, Tensor] = {}
    for name, sized in small.weights.dims.named(small):
        tensor = _slice(theirs[name].tensor, sized.dims, theirs[name].dims)
        # As its copy would lie in memory, or products might round otherwise.
        found[name] = tensor.contiguous()
    return {**found, **dict(large.named_buffers())}


def follow(large: Recogniser, small: Recogniser) -> None:
    """The sub-network's weights are pruned and quantised as the large model's are at this step.

    (Whole groups are sliced, so that a part of a mask is the mask of a part.)
    """
    theirs = {id(sized.tensor): sized.dims for sized in large.weights.dims.sized}
    ours = {id(sized.tensor): sized.dims for sized in small.weights.dims.sized}
    for key, weight in small.weights.stored.items():
        other = large.weights.stored[key]
        weight.pattern, weight.grid = other.pattern, other.grid
        weight.prune_gradient, weight.fixed_mask = other.prune_gradient, other.fixed_mask
        if other.fixed_mask is not None:
            dims = ours[id(weight.stored)], theirs[id(other.stored)]
            weight.fixed_mask = _slice(other.fixed_mask, *dims)


def extract(large: Recogniser, config: ModelConfig) -> Recogniser:
    """The sub-network as an ordinary model, with weights of its own."""
    small = Recogniser(config, large.vocabulary).to(large.mean.device)
    if not large.auxiliary:
        small.auxiliary = large.auxiliary
    with torch.no_grad():
        ours = {**dict(small.named_parameters()), **dict(small.named_buffers())}
        for name, tensor in sliced(large, small).items():
            ours[name].copy_(tensor)
    return small.train(large.training)


def _slice(tensor: Tensor, dims: Sequence[Dim], others: Sequence[Dim]) -> Tensor:
    """The first units of every axis: those of `dims` out of `others`."""
    for axis, (dim, other) in enumerate(zip(dims, others, strict=True)):
        tensor = _first(tensor, axis, dim, other)
    return tensor


def _first(tensor: Tensor, axis: int, dim: Dim, other: Dim) -> Tensor:
    """The first units of an axis, of each repetition of its dimension."""
    if len(dim) == len(other):
        return tensor
    each = tensor.unflatten(axis, (other.repeat, other.size * other.unit))
    return each.narrow(axis + 1, 0, dim.size * dim.unit).flatten(axis, axis + 1)
