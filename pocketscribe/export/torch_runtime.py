"""Saved models in PyTorch, the runtime that every other one is measured against."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pocketscribe.decoding.offline import decode
from pocketscribe.decoding.searcher import GREEDY, DecodingConfig, Searcher
from pocketscribe.decoding.streaming import (
    Stream,
    TorchStreaming,
    Transcript,
    stream_one,
    transcript,
    whole_features,
)
from pocketscribe.device import choose_device
from pocketscribe.errors import UserError
from pocketscribe.models import stored_parameters, virtual_parameters
from pocketscribe.models.chunks import Chunk
from pocketscribe.models.saved import load_model
from pocketscribe.speech.features import SAMPLE_RATE
from pocketscribe.speech.units import Units

LONG_SECONDS = 60  # beyond which whole utterances go chunk by chunk, to the same result
FULL_SECONDS = 120  # all that full context takes: its memory grows with the square


class TorchRuntime:
    """A saved model in PyTorch: offline under a chunking, or streaming."""

    always_streams = False

    def __init__(
        self,
        path: Path,
        search: DecodingConfig = GREEDY,
        chunk: Chunk = None,
        device: str = "cpu",
    ) -> None:
        """`chunk` is the latency; `device` is cpu, cuda or auto."""
        saved = load_model(path)
        self.model, self.card = saved.model, saved.card
        self.model.to(choose_device(device))
        self.units = Units.from_json(saved.units, str(path), saved.model.vocabulary)
        self.searcher = Searcher.open(search, self.units)
        self.chunking = self.model.config.chunks.choose(chunk)
        self.chunk = self.chunking.size
        self.bytes = path.stat().st_size
        self.parameters_stored = stored_parameters(self.model)
        self.parameters_virtual = virtual_parameters(self.model)

    def transcribe(self, audio: Sequence[np.ndarray], streaming: bool) -> list[Transcript]:
        if streaming:
            return [stream_one(self.stream(), x) for x in audio]
        limit = SAMPLE_RATE * (FULL_SECONDS if self.chunk is None else LONG_SECONDS)
        features = [whole_features(x, self.chunking) for x in audio if len(x) <= limit]
        found = iter(decode(self.model, features, self.chunking, self.searcher))
        return [
            transcript(next(found), self.units) if len(x) <= limit else stream_one(self.stream(), x)
            for x in audio
        ]

    def stream(self) -> Stream:
        """Raises UserError under full context."""
        if self.chunk is None:
            raise UserError(
                f"full context can neither stream nor hear more than {FULL_SECONDS} s at once; "
                "choose a --chunk that the model was trained for, "
                "or train with a number in model.chunks.sizes"
            )
        return Stream(TorchStreaming(self.model, self.chunking), self.units, self.searcher)
