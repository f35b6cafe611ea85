"""Streaming with exported graphs: one loop, whatever runs them.

Dimensions: N streams, T feature frames of a chunk, F mel bins, J encoder output, V vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, zeros

from pocketscribe.decoding.searcher import SearchConfig, Searcher
from pocketscribe.decoding.streaming import Stream, Transcript, stream_one
from pocketscribe.errors import UserError
from pocketscribe.models import State
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.units import Units

GRAPHS = ("encoder", "decoder", "joiner")


DESCRIBED = {"head", "frames", "states", "units", "parameters_stored", "parameters_virtual"}


def checked(about: Any, format: str, folder: Path) -> dict[str, Any]:
    """What `graph.describe` said at an export; UserError where it is not that, or of a version."""
    if not isinstance(about, dict) or about.get("format") != format or DESCRIBED - about.keys():
        raise UserError(f"{folder}: not exported by this version of Pocketscribe")
    return about


class GraphRuntime:
    """An exported folder with our searches around it."""

    always_streams = True

    def __init__(self, folder: Path, about: dict[str, Any], search: SearchConfig) -> None:
        """`about` is `checked`."""
        self.units = Units.from_json(about["units"], str(folder))
        self.searcher = Searcher.open(search, self.units)
        self.card: dict[str, Any] = about.get("card", {})
        self.chunk = about["frames"] // FACTOR
        self.shapes: dict[str, list[int]] = about["states"]
        self.parameters_stored = about["parameters_stored"]
        self.parameters_virtual = about["parameters_virtual"]
        self.scorer = self if about["head"] == "transducer" else None
        self.bytes = folder_bytes(folder)

    def run(self, graph: str, *inputs: Tensor) -> list[Tensor]:
        """Outputs of one of `GRAPHS`, by position."""
        raise NotImplementedError

    def transcribe(self, audio: Sequence[np.ndarray], streaming: bool = True) -> list[Transcript]:
        return [stream_one(self.stream(), x) for x in audio]

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


def device_files(folder: Path) -> list[Path]:
    """All that a device must hold: the networks and the tokens, not a card beside them."""
    needed = (".onnx", ".pte")
    return sorted(
        p for p in folder.iterdir() if p.suffix in needed or p.name in ("tokens.txt", "model.json")
    )


def folder_bytes(folder: Path) -> int:
    """Bytes of all that a device must hold."""
    return sum(p.stat().st_size for p in device_files(folder))
