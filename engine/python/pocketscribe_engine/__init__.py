"""Pocketscribe's native engine by ctypes: what engine/include/pocket.h offers, in Python's words.

Nothing here knows PyTorch or the rest of Pocketscribe; NumPy carries the samples.
"""

import ctypes
import os
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__version__ = "0.1.0"
WHY = 256
MISTAKES = {
    -1: "there is no such stream, or no free one",
    -2: "the stream has ended; reset it first",
    -3: "the samples hold what is no number",
}


class EngineError(Exception):
    """What the engine refused, and why."""


class _Info(ctypes.Structure):
    _fields_ = (
        ("vocabulary", c_int32),
        ("sample_rate", c_int32),
        ("frame_milliseconds", c_int32),
        ("chunks", c_int32),
        ("chunk_sizes", POINTER(c_int32)),
        ("head", c_char_p),
        ("card", c_char_p),
        ("units", c_char_p),
    )


class _Options(ctypes.Structure):
    _fields_ = (
        ("chunk", c_int32),
        ("streams", c_int32),
        ("kernels", c_char_p),
        ("beam", c_int32),
        ("lm", c_void_p),
        ("lm_scale", c_float),
        ("label_bonus", c_float),
        ("hotwords", POINTER(c_int32)),
        ("hotword_units", c_int32),
        ("hotword_score", c_float),
        ("float16", c_int32),
    )


class _Token(ctypes.Structure):
    _fields_ = (("unit", c_int32), ("frame", c_int32), ("score", c_float))


class _Result(ctypes.Structure):
    _fields_ = (
        ("tokens", POINTER(_Token)),
        ("count", c_int32),
        ("frames", c_int32),
        ("silence", c_int32),
        ("finished", c_int32),
        ("settled", c_int32),
    )


class _Stats(ctypes.Structure):
    _fields_ = (
        ("kernels", c_char_p),
        ("model_bytes", c_size_t),
        ("unpacked_bytes", c_size_t),
        ("engine_bytes", c_size_t),
        ("stream_bytes", c_size_t),
        ("hash", c_uint64),
    )


class Token(NamedTuple):
    """A label that was emitted, its encoder frame (40 ms) and its log-probability there."""

    unit: int
    frame: int
    score: float


class Result(NamedTuple):
    """What a stream said since it was last asked, and how many frames it has decoded.

    `guess` is what a beam's best hypothesis has beyond what is final: it comes again in the next
    result, perhaps otherwise. Greedy search has none.
    """

    tokens: list[Token]
    frames: int
    silence: int
    finished: bool
    guess: list[Token]


class Stats(NamedTuple):
    """What an engine costs in bytes, and a hash of all that its encoder gave."""

    kernels: str
    model_bytes: int
    unpacked_bytes: int
    engine_bytes: int
    stream_bytes: int
    hash: int


def _library() -> Any:
    own = Path(__file__).with_name("libpocket.so")
    found = ctypes.CDLL(os.environ.get("POCKETSCRIBE_ENGINE_LIBRARY", str(own)))
    handle, samples = c_void_p, POINTER(c_float)
    for name, result, arguments in (
        ("pocket_open", handle, (c_char_p, c_char_p)),
        ("pocket_open_memory", handle, (c_char_p, c_size_t, c_char_p)),
        ("pocket_close", None, (handle,)),
        ("pocket_describe", _Info, (handle,)),
        ("pocket_unit", c_char_p, (handle, c_int32)),
        ("pocket_lm_open", handle, (handle, c_char_p, c_char_p)),
        ("pocket_lm_open_memory", handle, (handle, c_char_p, c_size_t, c_char_p)),
        ("pocket_lm_close", None, (handle,)),
        ("pocket_engine_new", handle, (handle, POINTER(_Options), c_char_p)),
        ("pocket_engine_free", None, (handle,)),
        ("pocket_stream_new", c_int, (handle,)),
        ("pocket_stream_reset", c_int, (handle, c_int)),
        ("pocket_stream_free", c_int, (handle, c_int)),
        ("pocket_accept", c_int, (handle, c_int, samples, c_int)),
        ("pocket_finish", c_int, (handle, c_int)),
        ("pocket_step", c_int, (handle,)),
        ("pocket_take", c_int, (handle, c_int, POINTER(_Result))),
        ("pocket_engine_stats", _Stats, (handle,)),
        ("pocket_kernels", c_char_p, ()),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


_pocket = _library()


def kernels() -> list[str]:
    """Names of the kernels that run here, best first."""
    return _pocket.pocket_kernels().decode().split()


class Model:
    """An opened `.pocket` file, which any number of engines share.

    Attributes:
        units: the text of each unit.
        chunks: chunk sizes in encoder frames of 40 ms, the model's own choice first.
        head: "transducer" or "ctc".
        card: JSON: what it was trained on, and how well it does.
        sentencepiece: base64 of its text units.
    """

    def __init__(self, path: Path) -> None:
        """Raises EngineError where the file is missing, damaged, or of another kind."""
        why = ctypes.create_string_buffer(WHY)
        self._handle = _pocket.pocket_open(os.fsencode(path), why)
        if not self._handle:
            raise EngineError(f"{path}: {why.value.decode(errors='replace')}")
        info = _pocket.pocket_describe(self._handle)
        self.units = [
            _pocket.pocket_unit(self._handle, i).decode(errors="replace")
            for i in range(info.vocabulary)
        ]
        self.chunks = list(info.chunk_sizes[: info.chunks])
        self.head = info.head.decode()
        self.card = info.card.decode(errors="replace")
        self.sentencepiece = info.units.decode()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            _pocket.pocket_close(self._handle)


class LanguageModel:
    """A file that `pocketscribe lm` wrote, which any number of engines share."""

    def __init__(self, model: Model, path: Path) -> None:
        """Raises EngineError where the file is missing, damaged, or for a model of other units."""
        why = ctypes.create_string_buffer(WHY)
        self._handle = _pocket.pocket_lm_open(model._handle, os.fsencode(path), why)
        if not self._handle:
            raise EngineError(f"{path}: {why.value.decode(errors='replace')}")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            _pocket.pocket_lm_close(self._handle)


class Search(NamedTuple):
    """How streams are searched: what `pocket_options` says of it.

    Attributes:
        beam: hypotheses that a transducer's stream keeps; 1 is greedy search.
        lm: a language model that a beam follows.
        lm_scale: what its log-probabilities are multiplied by.
        label_bonus: with it, added for each label.
        hotwords: units of phrases that a beam prefers.
        hotword_score: what each unit of such a phrase is worth, in nats.
    """

    beam: int = 1
    lm: LanguageModel | None = None
    lm_scale: float = 0.4
    label_bonus: float = 0.4
    hotwords: Sequence[Sequence[int]] = ()
    hotword_score: float = 1.5


GREEDY = Search()


class Engine:
    """Streams that go through a model together; for one thread at a time."""

    def __init__(
        self,
        model: Model,
        chunk: int = 0,
        streams: int = 1,
        kernels: str | None = None,
        search: Search = GREEDY,
        float16: bool = False,
    ) -> None:
        """`chunk` is one of the model's (0: its own choice); `kernels` one of `kernels()`; with
        `float16` streams remember frames in that, in little more than half the memory.

        Raises:
            EngineError: there is no such chunk, no such kernels, no such search, or no memory.
        """
        self.model, self.lm = model, search.lm
        why = ctypes.create_string_buffer(WHY)
        hotwords = [unit for phrase in search.hotwords for unit in (*phrase, 0)]
        options = _Options(
            chunk,
            streams,
            kernels.encode() if kernels else None,
            search.beam,
            search.lm._handle if search.lm else None,
            search.lm_scale,
            search.label_bonus,
            (c_int32 * len(hotwords))(*hotwords),
            len(hotwords),
            search.hotword_score,
            float16,
        )
        self._handle = _pocket.pocket_engine_new(model._handle, byref(options), why)
        if not self._handle:
            raise EngineError(why.value.decode(errors="replace"))

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            _pocket.pocket_engine_free(self._handle)

    def open(self) -> int:
        """A free stream's number."""
        return _checked(_pocket.pocket_stream_new(self._handle))

    def reset(self, stream: int) -> None:
        """The stream forgets everything."""
        _checked(_pocket.pocket_stream_reset(self._handle, stream))

    def close(self, stream: int) -> None:
        """The stream may be opened again."""
        _checked(_pocket.pocket_stream_free(self._handle, stream))

    def accept(self, stream: int, samples: np.ndarray) -> int:
        """Takes samples at 16 kHz in [-1, 1], `[N]`, until the buffer is full; returns how many."""
        samples = np.ascontiguousarray(samples, np.float32)
        pointer = samples.ctypes.data_as(POINTER(c_float))
        return _checked(_pocket.pocket_accept(self._handle, stream, pointer, len(samples)))

    def finish(self, stream: int) -> None:
        """No more audio comes."""
        _checked(_pocket.pocket_finish(self._handle, stream))

    def step(self) -> int:
        """Decodes a chunk of each stream that has one; returns how many had."""
        return _pocket.pocket_step(self._handle)

    def take(self, stream: int) -> Result:
        """What the stream said since it was last asked."""
        found = _Result()
        _checked(_pocket.pocket_take(self._handle, stream, byref(found)))
        tokens = [Token(t.unit, t.frame, t.score) for t in found.tokens[: found.count]]
        final, guess = tokens[: found.settled], tokens[found.settled :]
        return Result(final, found.frames, found.silence, bool(found.finished), guess)

    def stats(self) -> Stats:
        found = _pocket.pocket_engine_stats(self._handle)
        return Stats(found.kernels.decode(), *(getattr(found, n) for n in Stats._fields[1:]))

    def transcribe(self, audio: Sequence[np.ndarray]) -> list[list[Token]]:
        """Whole utterances, as many at a time as there are free streams.

        Raises:
            EngineError: no stream is free, or a sample is no number; the streams are free again.
        """
        found: list[list[Token]] = [[] for _ in audio]
        waiting, heard = list(range(len(audio)))[::-1], [0] * len(audio)
        live: dict[int, int] = {}  # the utterance of each stream
        try:
            while waiting or live:
                while waiting and (stream := _pocket.pocket_stream_new(self._handle)) >= 0:
                    live[stream] = waiting.pop()
                    if not len(audio[live[stream]]):
                        self.finish(stream)
                if not live:
                    _checked(stream)
                for stream, index in live.items():
                    if heard[index] < len(audio[index]):
                        heard[index] += self.accept(stream, audio[index][heard[index] :])
                        if heard[index] == len(audio[index]):
                            self.finish(stream)
                self.step()
                for stream, index in list(live.items()):
                    said = self.take(stream)
                    found[index] += said.tokens
                    if said.finished:
                        self.close(stream)
                        del live[stream]
        finally:
            for stream in live:
                self.close(stream)
        return found


def _checked(code: int) -> int:
    if code < 0:
        raise EngineError(MISTAKES.get(code, f"error {code}"))
    return code
