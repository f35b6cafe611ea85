"""Which layers and units a student keeps of the model that it is cut from.

Units by their weights' norm, or by a first-order estimate of what the loss would lose without them
(Molchanov et al. 2019, arXiv 1906.10771); layers evenly, from either end, or by leaving out each in
turn and asking the loss.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.models import Recogniser
from pocketscribe.models.cutting import before, cut, plain, plain_config
from pocketscribe.speech.batches import Batch
from pocketscribe.training.objectives import LossConfig, Plain, StepContext
from pocketscribe.weights.dims import Sized

BATCHES = 10  # of dev speech that a choice by loss hears
PAST_WARM_UP = 1_000_000  # the step of a loss that is not warming up


class CutConfig(Config):
    """What a student keeps of the larger model in `from`.

    Attributes:
        layers: evenly spaced ones, the first, the last, or what is left when the one that the loss
            on dev misses least is "dropped" again and again.
        units: channels and heads with the largest "norm", those that the loss on dev would miss
            most by its "gradient", or the "first".
        ranked: the worthiest first, whatever is left out: a supernet's smaller networks are its
            first units (as in Cai et al. 2020, arXiv 1908.09791).
    """

    layers: Literal["even", "first", "last", "dropped"] = "even"
    units: Literal["norm", "gradient", "first"] = "norm"
    ranked: bool = False

    @property
    def listens(self) -> bool:
        """Whether the choice takes speech."""
        return self.layers == "dropped" or self.units == "gradient"


def cut_from(
    student: Recogniser, source: Recogniser, config: CutConfig, dev: Iterable[Batch] | None
) -> None:
    """Fills a student with what it keeps of a larger model; `dev` is speech for choices by loss.

    Raises:
        UserError: a layer that is kept has fewer units than the student's.
    """
    whole = plain(source)
    heard = [] if dev is None else list(islice(dev, BATCHES))

    def loss() -> float:
        objective, context = _objective(whole)
        return sum(objective(batch, context)["loss"].item() for batch in heard)

    layers = _layers(whole, student.config.encoder.layers, config, loss)
    match config.units:
        case "first":
            worth = None
        case "norm":
            worth = by_norm(whole)
        case "gradient":
            worth = by_gradient(whole, heard)
    kept: dict[str, Tensor] = {}
    large = whole.weights.dims.sizes()
    with torch.device("meta"):  # for its sizes alone
        small = Recogniser(plain_config(student.config), student.vocabulary)
    for name, size in small.weights.dims.sizes().items():
        name = before(name, layers)
        if size > large[name]:
            raise UserError(
                f"{name}: {size} units are asked, and the layer that is kept has {large[name]}; a "
                "cut makes smaller (encoder.inner, layer by layer)"
            )
        if worth is None:
            kept[name] = torch.arange(size)
        elif config.ranked:
            kept[name] = worth[name].topk(size).indices
        elif size < large[name]:
            kept[name] = worth[name].topk(size).indices.sort().values
    cut(whole, student, layers, kept)


def _layers(
    whole: Recogniser, count: int, config: CutConfig, loss: Callable[[], float]
) -> list[int]:
    every = list(range(whole.config.encoder.layers))
    match config.layers:
        case "first":
            return every[:count]
        case "last":
            return every[-count:]
        case "even":  # both ends among them
            last = len(every) - 1
            return [round(i * last / max(count - 1, 1)) for i in range(count)]
        case "dropped":
            return _dropped(whole, count, loss)


@torch.no_grad()
def _dropped(whole: Recogniser, count: int, loss: Callable[[], float]) -> list[int]:
    """Leaves out one layer after the other, each time the one without which the loss is least."""
    blocks = list(whole.encoder.blocks)
    left = list(range(len(blocks)))
    while len(left) > count:
        losses = {}
        for out in left:
            stay = [i for i in left if i != out]
            whole.encoder.blocks = nn.ModuleList(blocks[i] for i in stay)
            losses[out] = loss()
        left.remove(min(losses, key=lambda out: losses[out]))
    whole.encoder.blocks = nn.ModuleList(blocks)
    return left


@torch.no_grad()
def by_norm(model: Recogniser) -> dict[str, Float[Tensor, " K"]]:
    """The square sum of each unit's weights, in every tensor of its dimension."""
    sized = _sized(model)
    return _per_unit(sized, [one.tensor.square() for one in sized])


def by_gradient(model: Recogniser, batches: Sequence[Batch]) -> dict[str, Float[Tensor, " K"]]:
    """What the loss would lose without a unit, to first order: (Σ w dL/dw)² over the batches."""
    objective, context = _objective(model)
    sized = _sized(model)
    tensors = [one.tensor for one in sized]
    found: dict[str, Tensor] = {}
    for batch in batches:
        loss = objective(batch, context)["loss"] / batch.total_frames
        slopes = torch.autograd.grad(loss, tensors, allow_unused=True)
        with torch.no_grad():
            pairs = zip(tensors, slopes, strict=True)
            moved = [t * (torch.zeros_like(t) if g is None else g) for t, g in pairs]
            for name, change in _per_unit(sized, moved).items():
                found[name] = found.get(name, torch.zeros_like(change)) + change.square()
    return found


def _objective(model: Recogniser) -> tuple[Plain, StepContext]:
    """The loss that choices go by, as the model is used when it streams.

    A shipped model has none of the heads that our usual loss asks: the whole lattice does without.
    """
    loss = LossConfig()
    if model.config.head == "transducer" and not model.auxiliary:
        loss = LossConfig(transducer="full", ctc=0.0)
    return Plain(model, loss), StepContext(PAST_WARM_UP, model.config.chunks.streaming)


def _sized(model: Recogniser) -> list[Sized]:
    """Its tensors; not those of heads that it came without, which say nothing of its units."""
    return [sized for _, sized in model.weights.dims.named(model)]


def _per_unit(sized: Sequence[Sized], numbers: Sequence[Tensor]) -> dict[str, Tensor]:
    """Sums of one number a weight, of these tensors, over every unit of every dimension."""
    found: dict[str, Tensor] = {}
    for one, values in zip(sized, numbers, strict=True):
        for axis, dim in enumerate(one.dims):
            if dim.name:
                others = [a for a in range(values.ndim) if a != axis]
                each = dim.per_unit(values.sum(others) if others else values)
                found[dim.name] = found.get(dim.name, torch.zeros_like(each)) + each
    return found
