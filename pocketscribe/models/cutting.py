"""A smaller recogniser out of a trained one: some of its layers, and some units of each dimension.

Whole layers are kept or left out, and so are whole heads; of every other dimension (width, insides
of modules, predictor, joiner) any units. Which ones, `training/cutting.py` chooses.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pocketscribe.errors import UserError
from pocketscribe.models.recogniser import ModelConfig, Recogniser, check_equal, start_from
from pocketscribe.weights import Sharing

LAYER = re.compile(r"(encoder\.blocks\.)(\d+)(\..+)")
SMALLER = ("width", "layers", "heads")


def check_cut(small: ModelConfig, large: ModelConfig) -> None:
    """Whether one can be cut from the other.

    Raises:
        UserError: a size is larger, or something differs that no cut changes.
    """
    here, there = _sizes(small), _sizes(large)
    for key, value in here.items():
        if key not in there or value > there[key]:
            raise UserError(
                f"model.{key} is {value} here and {there.get(key, 0)} in the model that it is cut "
                "from; a cut makes smaller"
            )
    keeps = "a cut keeps whole heads, and leaves out layers, heads and channels"
    check_equal(_kept(small), _kept(large), f"that it is cut from; {keeps}")


def _sizes(config: ModelConfig) -> dict[str, int]:
    encoder = config.encoder
    found = {f"encoder.{key}": getattr(encoder, key) for key in SMALLER}
    found["encoder.inner (width x ffn)"] = max(encoder.insides)
    if config.head == "transducer":
        found |= {"predictor": config.predictor, "joiner": config.joiner}
    return {**found, "subsampling": config.subsampling}


def _kept(config: ModelConfig) -> dict[str, Any]:
    encoder = config.encoder.model_dump(exclude={*SMALLER, "ffn", "inner", "head_width", "dropout"})
    channels = {"encoder.head_width": config.encoder.channels, "head": config.head}
    return {**{f"encoder.{key}": value for key, value in encoder.items()}, **channels}


@torch.no_grad()
def cut(
    source: Recogniser,
    target: Recogniser,
    layers: Sequence[int],
    kept: Mapping[str, Int[Tensor, " K"]],
) -> None:
    """Fills `target` with those layers of `source`, in order, and those units of its dimensions.

    `kept` goes by the source's dimensions (`Weights.dims`); one that is not named stays whole.
    Shared and factored weights are cut as the matrices that they make, and shared or factored
    again; see `start_from`.
    """
    whole, small = plain(source), Recogniser(plain_config(target.config), target.vocabulary)
    theirs = dict(whole.weights.dims.named(whole))
    if not whole.auxiliary:  # what ships has no training heads: those stay as they were drawn
        small.auxiliary = whole.auxiliary
    for name, sized in small.weights.dims.named(small):
        large = theirs[before(name, layers)]
        tensor = large.tensor
        for axis, dim in enumerate(large.dims):
            if dim.name in kept:
                places = dim.places(kept[dim.name]).to(tensor.device)
                tensor = tensor.index_select(axis, places)
        sized.tensor.copy_(tensor)
    small.mean.copy_(whole.mean)
    small.inverse_std.copy_(whole.inverse_std)
    start_from(target, small)


def before(name: str, layers: Sequence[int]) -> str:
    """What a tensor or dimension was called in the model of which these layers were kept."""
    found = LAYER.fullmatch(name)
    return name if found is None else f"{found[1]}{layers[int(found[2])]}{found[3]}"


def plain(model: Recogniser) -> Recogniser:
    """A copy in which every weight is a matrix of its own, in float32."""
    copy = Recogniser(plain_config(model.config), model.vocabulary).to(model.mean.device)
    if not model.auxiliary:
        copy.auxiliary = model.auxiliary
    start_from(copy, model)
    return copy.eval()


def plain_config(config: ModelConfig) -> ModelConfig:
    """The same sizes, every weight a matrix of its own."""
    return config.model_copy(update={"sharing": Sharing(), "ranks": (), "formats": ()})
