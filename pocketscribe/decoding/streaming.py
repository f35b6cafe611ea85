"""Streaming: audio in as it comes, text out chunk by chunk, in any runtime.

Dimensions: B streams, T feature frames of a chunk (10 ms), S = T // 4 encoder frames, F mel bins.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pocketscribe.decoding.offline import head_input, scorer_of
from pocketscribe.decoding.search import Hypothesis, TransducerScorer
from pocketscribe.decoding.searcher import Searcher
from pocketscribe.models import Chunking, Recogniser, State
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.features import HOP_SECONDS, SAMPLE_RATE, LiveFbank
from pocketscribe.speech.units import Units

FRAME_SECONDS = FACTOR * HOP_SECONDS


@dataclass(frozen=True)
class Transcript:
    """What was said; `timestamps` are the tokens' emission times in seconds."""

    text: str
    tokens: list[str]
    timestamps: list[float]


def transcript(found: Hypothesis, units: Units) -> Transcript:
    times = [round(frame * FRAME_SECONDS, 2) for frame in found.frames]
    return Transcript(units.decode(found.labels), units.pieces(found.labels), times)


@runtime_checkable
class StreamingModel(Protocol):
    """A recogniser that runs chunk by chunk: PyTorch's or an exported one."""

    chunk: int  # encoder frames a step

    @property
    def scorer(self) -> TransducerScorer | None:
        """None for a CTC head."""

    def initial_state(self, streams: int) -> State: ...

    def step(
        self, features: Float[Tensor, "B T F"], state: State
    ) -> tuple[Float[Tensor, "B S J"], State]:
        """One chunk of 4 x `chunk` feature frames -> what a search takes, and the new state."""


class TorchStreaming:
    """A recogniser's own streaming, one chunking."""

    def __init__(self, model: Recogniser, chunking: Chunking) -> None:
        assert chunking.size is not None
        self.model, self.chunk, self.left = model, chunking.size, chunking.left
        self.scorer = scorer_of(model)

    def initial_state(self, streams: int) -> State:
        return self.model.initial_state(streams, self.left)

    @torch.inference_mode()
    def step(
        self, features: Float[Tensor, "B T F"], state: State
    ) -> tuple[Float[Tensor, "B S J"], State]:
        encoded, state = self.model.step(features.to(self.model.mean.device), state)
        return head_input(self.model, encoded), state


@runtime_checkable
class LiveStream(Protocol):
    """One live utterance: `accept` audio, read `transcript` at any time, `finish` at its end."""

    def reset(self) -> None:
        """Forgets everything: the next audio begins a new utterance."""

    def accept(self, samples: np.ndarray) -> None:
        """Takes samples at 16 kHz in [-1, 1] and decodes every chunk that is complete."""

    def transcript(self) -> Transcript:
        """What was said so far."""

    def finish(self) -> Transcript:
        """Decodes what is left, completed with silence to a whole chunk; then only `reset` goes."""


class Stream:
    """A `LiveStream` through our own loop around any `StreamingModel`."""

    def __init__(self, model: StreamingModel, units: Units, searcher: Searcher) -> None:
        self.model, self.units, self.searcher = model, units, searcher
        self.reset()

    def reset(self) -> None:
        self.state = self.model.initial_state(1)
        self.features = LiveFbank()
        with torch.inference_mode():
            self.search = self.searcher.start(self.model.scorer, 1)

    def accept(self, samples: np.ndarray) -> None:
        self.features.accept(samples)
        self._decode()

    def finish(self) -> Transcript:
        self.features.accept(tail_silence(self.model.chunk))
        self.features.finish()
        self._decode()
        return self.transcript()

    def transcript(self) -> Transcript:
        return transcript(self.search.best()[0], self.units)

    def _decode(self) -> None:
        size = FACTOR * self.model.chunk
        # Strictly more than a chunk, as sherpa-onnx waits: the last frame may still change.
        while self.features.ready > size:
            chunk = torch.from_numpy(self.features.take(size)).unsqueeze(0)
            encoded, self.state = self.model.step(chunk, self.state)
            with torch.inference_mode():
                self.search.advance(encoded, torch.tensor([encoded.shape[1]]))


def stream_one(stream: LiveStream, samples: np.ndarray) -> Transcript:
    """One whole utterance through a fresh stream."""
    stream.accept(samples)
    return stream.finish()


def tail_silence(chunk: int) -> np.ndarray:
    """Silence that pushes the last of an utterance through chunks of `chunk` encoder frames."""
    frames = FACTOR * chunk + 1
    return np.zeros(round(frames * HOP_SECONDS * SAMPLE_RATE), np.float32)
