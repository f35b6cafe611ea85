"""Which sizes fit into a budget: a supernet's, or even cuts of a model."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from pocketscribe.config import read_bytes
from pocketscribe.errors import UserError
from pocketscribe.export.size import size_of_model
from pocketscribe.fit.ways import Choice
from pocketscribe.models import ModelConfig, Recogniser
from pocketscribe.models.saved import Saved, save_packed
from pocketscribe.models.subnets import Space, SpaceConfig
from pocketscribe.recipes.recipe import Recipe, merged
from pocketscribe.search.cost import FileBytes
from pocketscribe.speech.units import Units
from pocketscribe.weights.format import FormatRule

STAGE_BYTES = 500  # of a card: what it says of a stage
EIGHT_BITS = [{"match": "*.depthwise", "bits": 8}, {"match": "*", "bits": 8, "activations": 8}]
LATER_BYTES = 4 * STAGE_BYTES  # three stages, and scores
LEAST_SHARE = 1 / 8  # of a model's widths: narrower ones are not cut


class Room(NamedTuple):
    """A budget, and how much of it a file's header takes."""

    budget: str
    header: int
    vocabulary: int  # text units

    @property
    def arrays(self) -> int:
        """Bytes that are left for the arrays."""
        return read_bytes(self.budget, "--budget") - self.header

    def too_small(self, arrays: int) -> UserError:
        """The refusal, where `arrays` bytes are the least."""
        return UserError(
            f"--budget {self.budget}: the smallest sub-network takes {arrays + self.header:,} "
            "bytes; give more"
        )


def room(
    budget: str, config: ModelConfig, recipe: Recipe, card: dict[str, Any], units: Units
) -> Room:
    """What a budget has room for beside names and shapes of all tensors, plan, units and card.

    Measured on files, in every format that the recipe may end with: of a narrow model, for widths
    are a few digits of it.

    Raises:
        UserError: there is no such format.
    """
    small = merged(config.model_dump(mode="json"), _shrunk(config, LEAST_SHARE))
    headers = []
    with TemporaryDirectory() as folder:
        for rules in _formats(recipe):
            formats = [rule.model_dump(mode="json") for rule in rules]
            read = ModelConfig.read(small | {"formats": formats}, "a smaller model")
            model = Recogniser(read, len(units))
            file = Path(folder) / "model.pocket"
            save_packed(file, Saved(model, units.to_json(), card))
            headers.append(file.stat().st_size - int(size_of_model(model)["bytes"]))
    if not headers:
        raise UserError("--set stage.search.search.formats: give one at least")
    return Room(budget, max(headers), len(units))


def _formats(recipe: Recipe) -> Iterator[tuple[FormatRule, ...]]:
    for stage in recipe.stage:
        if stage.formats:
            yield stage.formats
        if stage.search is not None:
            yield from (formats.rules for formats in stage.search.formats or ())


def searched(config: ModelConfig, recipe: Recipe, room: Room) -> list[Choice]:
    """A supernet's sizes, and what may be searched and taken; UserError where none is that small.

    Sizes are thirds to wholes of every width. All layers stay: the supernet comes from a trained
    model, which without its last layers says nothing (docs/todm.md).
    """
    encoder = config.encoder

    def parts(whole: int, *shares: float) -> tuple[int, ...]:
        return tuple(sorted({_part(whole, share) for share in shares} - {whole}))

    sizes = SpaceConfig(
        width=parts(encoder.width, 0.35, 0.5, 0.7, 0.85),
        heads=tuple(range((encoder.heads + 1) // 2, encoder.heads)),
        inner=parts(max(encoder.insides), 0.35, 0.5, 0.7),
        predictor=parts(config.predictor, 0.35, 0.5, 0.75),
        joiner=parts(config.joiner, 0.35, 0.5, 0.75),
    )
    with torch.device("meta"):
        space = Space(Recogniser(config, room.vocabulary), sizes)
    searching = next(stage.search for stage in recipe.stage if stage.name == "search")
    assert searching is not None
    size = FileBytes(space, room.vocabulary)
    least = min(size(space.smallest, formats.rules) for formats in searching.formats)
    if least > room.arrays:
        raise room.too_small(least)
    rows = sizes.model_dump(exclude_defaults=True)
    supernet = toml({**rows, "random": 1})
    # What a search counts is a whole file, but for what later stages add to its card.
    limit = read_bytes(room.budget, "--budget") - LATER_BYTES
    above, within = f'"{limit * 3 // 2}"', f'"{limit}"'
    why = f"{room.budget} less {LATER_BYTES:,} for what later stages say on the card"
    return [
        Choice("stage.supernet.supernet", supernet, "thirds to wholes of every width"),
        Choice("stage.search.search.budget", above, "half as much again: the way there"),
        Choice("stage.halfway.take.budget", above, "the step between"),
        Choice("stage.student.take.budget", within, why),
        Choice("stage.low_bits.take.budget", within, "the same"),
    ]


def fits_whole(config: ModelConfig, room: Room) -> bool:
    """Whether all of a model fits in eight bits."""
    return _size(config, 1.0, EIGHT_BITS, room) <= room.arrays


def whole(config: ModelConfig, room: Room) -> list[Choice]:
    """All of a model, in eight bits."""
    all_of_it = toml(_shrunk(config, 1.0))
    return [
        Choice("stage.halfway.model", all_of_it, "nothing has to be cut"),
        Choice("stage.student.model", all_of_it, f"all of it fits in {room.budget}"),
        Choice("stage.low_bits.formats", toml(EIGHT_BITS), "in eight bits, too"),
    ]


def cuts(config: ModelConfig, recipe: Recipe, room: Room, why: str) -> list[Choice]:
    """Even cuts of a model, the last of which fits in few bits; UserError where none does."""
    last = next(stage for stage in recipe.stage if stage.name == "low_bits")
    few = last.model_dump(mode="json")["formats"]
    shares = [part / 64 for part in range(64, round(64 * LEAST_SHARE) - 1, -1)]
    share = next((s for s in shares if _size(config, s, few, room) <= room.arrays), None)
    if share is None:
        raise room.too_small(_size(config, LEAST_SHARE, few, room))
    halfway, student = (toml(_shrunk(config, part)) for part in (math.sqrt(share), share))
    return [
        Choice("stage.halfway.model", halfway, why),
        Choice("stage.student.model", student, f"the widest in so few bits within {room.budget}"),
    ]


def _size(config: ModelConfig, share: float, formats: object, room: Room) -> int:
    """Bytes of the arrays of a share of a model in these formats."""
    small = merged(config.model_dump(mode="json"), _shrunk(config, share))
    with torch.device("meta"):
        read = ModelConfig.read(small | {"formats": formats}, "a smaller model")
        model = Recogniser(read, room.vocabulary)
    return int(size_of_model(model)["bytes"])


def _part(whole: int, share: float) -> int:
    """A share of a width, in multiples that N:M groups and kernels like."""
    return min(whole, max(8, 8 * round(share * whole / 8)))


def _shrunk(config: ModelConfig, share: float) -> dict[str, Any]:
    """A share of every width; heads stay whole, layers stay all."""
    encoder = config.encoder
    small: dict[str, Any] = {
        "width": _part(encoder.width, share),
        "heads": max(1, round(share * encoder.heads)),
        "head_width": encoder.head_width or encoder.width // encoder.heads,
    }
    if encoder.inner is not None:
        small["inner"] = [_part(inner, share) for inner in encoder.insides]
    rest = ("predictor", "joiner", "subsampling")
    return {"encoder": small, **{key: _part(getattr(config, key), share) for key in rest}}


def toml(value: Any) -> str:
    """A text, number, list or inline table."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {toml(part)}' for key, part in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
