"""Streaming: audio in as it comes, text out chunk by chunk, in any runtime.

Dimensions: B streams, T feature frames of a chunk (10 ms), S = T // 4 encoder frames, F mel bins.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from math import exp
from statistics import fmean
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pocketscribe.decoding.offline import head_input, scorer_of
from pocketscribe.decoding.search import Hypothesis, TransducerScorer
from pocketscribe.decoding.searcher import Searcher
from pocketscribe.errors import UserError
from pocketscribe.models import Chunking, Recogniser, State
from pocketscribe.models.chunks import TAIL
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.features import HOP_SECONDS, SAMPLE_RATE, LiveFbank, fbank, waveform
from pocketscribe.speech.units import SPACE, Units

FRAME_SECONDS = FACTOR * HOP_SECONDS
SHOW_SECONDS = 0.25  # between two looks at a text that grows


@dataclass(frozen=True)
class Word:
    """A word with the time (s) in which its letters were emitted, and how sure the model was."""

    word: str
    start: float
    end: float
    confidence: float | None  # in (0, 1]; None where the runtime does not tell


@dataclass(frozen=True)
class Transcript:
    """What was said.

    Attributes:
        timestamps: the tokens' emission times in seconds.
        scores: the tokens' log-probabilities; empty where the runtime does not tell them.
    """

    text: str
    tokens: list[str]
    timestamps: list[float]
    # Not compared: two runtimes round otherwise, and what was said is still the same.
    scores: list[float] = field(default_factory=list, compare=False)

    @property
    def words(self) -> list[Word]:
        """The tokens word by word; a confidence is the geometric mean of its tokens'."""
        starts = [i for i, token in enumerate(self.tokens) if i == 0 or token.startswith(SPACE)]
        found = []
        for first, end in pairwise([*starts, len(self.tokens)]):
            spoken = [i for i in range(first, end) if self.tokens[i] != SPACE]
            if not spoken:
                continue
            word = "".join(self.tokens[first:end]).replace(SPACE, "")
            until = round(self.timestamps[spoken[-1]] + FRAME_SECONDS, 2)
            sure = round(exp(fmean(self.scores[first:end])), 4) if self.scores else None
            found.append(Word(word, self.timestamps[spoken[0]], until, sure))
        return found


def transcript(found: Hypothesis, units: Units) -> Transcript:
    times = [round(frame * FRAME_SECONDS, 2) for frame in found.frames]
    tokens = units.pieces(found.labels)
    return Transcript(units.decode(found.labels), tokens, times, list(found.scores))


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
        """Takes samples at 16 kHz in [-1, 1] and decodes every chunk that is complete.

        Raises:
            UserError: these are no such samples, or the utterance is finished.
        """

    def transcript(self) -> Transcript:
        """What was said so far."""

    def finish(self) -> Transcript:
        """Decodes what is left, completed with silence to a whole chunk; then only `reset` goes."""


class Utterance:
    """What has an end, after which only `reset` goes."""

    finished = False

    def check_unfinished(self) -> None:
        """Raises UserError after the end."""
        if self.finished:
            raise UserError("this utterance is finished: reset() begins another")


class Stream(Utterance):
    """A `LiveStream` through our own loop around any `StreamingModel`."""

    def __init__(self, model: StreamingModel, units: Units, searcher: Searcher) -> None:
        self.model, self.units, self.searcher = model, units, searcher
        self.reset()

    def reset(self) -> None:
        self.finished = False
        self.state = self.model.initial_state(1)
        self.features = LiveFbank()
        with torch.inference_mode():
            self.search = self.searcher.start(self.model.scorer, 1)

    def accept(self, samples: np.ndarray) -> None:
        self.check_unfinished()
        self.features.accept(waveform(samples))
        self._decode()

    def finish(self) -> Transcript:
        self.check_unfinished()
        self.finished = True
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


def hear(
    stream: LiveStream,
    blocks: Iterable[np.ndarray],
    show: Callable[[str], object] | None = None,
) -> Transcript:
    """One whole utterance through a fresh stream; `show` is told its text while it grows."""
    shown = time.monotonic()
    for samples in blocks:
        stream.accept(samples)
        if show is not None and time.monotonic() - shown > SHOW_SECONDS:
            show(stream.transcript().text)
            shown = time.monotonic()
    return stream.finish()


def stream_one(stream: LiveStream, samples: np.ndarray) -> Transcript:
    """`hear` of samples in memory, a second at a time: no runtime holds an hour's features."""
    seconds = range(0, len(samples), SAMPLE_RATE)
    return hear(stream, (samples[at : at + SAMPLE_RATE] for at in seconds))


def tail_silence(chunk: int) -> np.ndarray:
    """`TAIL` frames of silence, and what pushes them through chunks of `chunk` encoder frames."""
    frames = TAIL + FACTOR * chunk
    return np.zeros(round(frames * HOP_SECONDS * SAMPLE_RATE), np.float32)


def whole_features(samples: np.ndarray, chunking: Chunking) -> Float[Tensor, "T F"]:
    """The very frames that streaming decodes of an utterance: its own, `TAIL`, a full chunk."""
    chunk = chunking.size or 1
    features = fbank(np.concatenate([samples, tail_silence(chunk)]))
    size = FACTOR * chunk
    return torch.from_numpy(features[: (len(features) - 1) // size * size])
