"""Streaming with exported graphs: one loop, whatever runs them.

Dimensions: N streams, T feature frames of a chunk, F mel bins, J encoder output, V vocabulary.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, zeros

from pocketscribe.config import Config
from pocketscribe.decoding.searcher import DecodingConfig, Searcher
from pocketscribe.decoding.streaming import LiveStream, Stream, Transcript, stream_one
from pocketscribe.errors import UserError
from pocketscribe.export.seal import folder_bytes
from pocketscribe.models import State
from pocketscribe.models.chunks import LONGEST
from pocketscribe.models.recogniser import LARGEST_STATE
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.units import Units

GRAPHS = ("encoder", "decoder", "joiner")


class Exported(Config):
    """What an exported folder says about itself: a format, a seal, and `graph.describe`.

    Attributes:
        frames: feature frames that the encoder takes at once.
        states: of one stream, in the order of the encoder's inputs.
    """

    format: str
    seal: str
    head: Literal["transducer", "ctc"]
    frames: int = Field(gt=0, le=FACTOR * LONGEST, multiple_of=FACTOR)
    states: dict[str, tuple[Annotated[int, Field(ge=0, le=LARGEST_STATE)], ...]]
    units: str
    parameters_stored: int = Field(gt=0)
    parameters_virtual: int = Field(gt=0)
    card: dict[str, Any]

    @model_validator(mode="after")
    def _check(self) -> "Exported":
        if sum(prod(shape) for shape in self.states.values()) > LARGEST_STATE:
            raise ValueError(f"states hold more than {LARGEST_STATE:,} numbers")
        return self

    @property
    def graphs(self) -> tuple[str, ...]:
        return GRAPHS if self.head == "transducer" else GRAPHS[:1]


def checked(about: Any, format: str, folder: Path) -> Exported:
    """What the export wrote of a folder; UserError where it is damaged or another version's."""
    if not isinstance(about, dict) or about.get("format") != format:
        raise UserError(f"{folder}: not exported by this version of Pocketscribe; export it again")
    return Exported.read(about, f"{folder}: its description is damaged")


class ExportedRuntime:
    """An exported folder, which knows of itself what it is, and has no way but to stream."""

    always_streams = True

    def __init__(self, folder: Path, about: Exported) -> None:
        self.units = Units.from_json(about.units, str(folder))
        self.card = about.card
        self.chunk = about.frames // FACTOR
        self.parameters_stored = about.parameters_stored
        self.parameters_virtual = about.parameters_virtual
        self.bytes = folder_bytes(folder)

    def transcribe(self, audio: Sequence[np.ndarray], streaming: bool = True) -> list[Transcript]:
        return [stream_one(self.stream(), x) for x in audio]

    def stream(self) -> LiveStream:
        """A live utterance of its own."""
        raise NotImplementedError


class GraphRuntime(ExportedRuntime):
    """An exported folder with our searches around it."""

    rows = 32

    def __init__(self, folder: Path, about: Exported, search: DecodingConfig) -> None:
        super().__init__(folder, about)
        self.searcher = Searcher.open(search, self.units)
        self.shapes = about.states
        self.scorer = self if about.head == "transducer" else None

    def run(self, graph: str, *inputs: Tensor) -> list[Tensor]:
        """Outputs of one of `GRAPHS`, by position."""
        raise NotImplementedError

    def stream(self) -> Stream:
        return Stream(self, self.units, self.searcher)

    def initial_state(self, streams: int) -> State:
        return {name: zeros(streams, *shape) for name, shape in self.shapes.items()}

    def step(
        self, features: Float[Tensor, "N T F"], state: State
    ) -> tuple[Float[Tensor, "N S J"], State]:
        encoded, *new = self.run("encoder", features, *state.values())
        return encoded, dict(zip(state, new, strict=True))

    def predict(self, context: Int[Tensor, "N 2"]) -> Float[Tensor, "N J"]:
        return self.run("decoder", context)[0]

    def join(
        self, encoded: Float[Tensor, "N J"], predicted: Float[Tensor, "N J"]
    ) -> Float[Tensor, "N V"]:
        return self.run("joiner", encoded, predicted)[0]
