"""Running a `.pocket` file on the native engine, which multiplies from the file as it lies."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pocketscribe_engine as native

from pocketscribe.decoding.search import Hypothesis
from pocketscribe.decoding.searcher import CTC_BEAM, GREEDY, DecodingConfig, spelt
from pocketscribe.decoding.streaming import Transcript, Utterance, transcript
from pocketscribe.errors import UserError
from pocketscribe.models import stored_parameters, virtual_parameters
from pocketscribe.models.chunks import Chunk
from pocketscribe.models.saved import sketch
from pocketscribe.speech.features import waveform
from pocketscribe.speech.units import Units

STREAMS = 8  # utterances at a time: a tile of weights is unpacked once for all of them


class EngineRuntime:
    """A packed model on the engine."""

    always_streams = True

    def __init__(self, path: Path, search: DecodingConfig = GREEDY, chunk: Chunk = None) -> None:
        """On the best kernels that run here.

        Raises:
            UserError: the engine refuses the file, or cannot do what is wanted.
        """
        try:
            self.model = native.Model(path)
        except native.EngineError as error:
            raise UserError(str(error)) from None
        saved = sketch(path)
        chunking = saved.model.config.chunks.choose(chunk)
        if chunking.size is None:
            raise UserError("--runtime engine: full context cannot stream; choose another --chunk")
        self.chunk: int | None = chunking.size
        self.card = json.loads(self.model.card)
        self.units = Units.from_json(self.model.sentencepiece, str(path), len(self.model.units))
        self.search = self._search(search)
        self.bytes = path.stat().st_size
        self.parameters_stored = stored_parameters(saved.model)
        self.parameters_virtual = virtual_parameters(saved.model)
        self.kernels = native.kernels()[0]
        self._engine(1)

    def transcribe(self, audio: Sequence[np.ndarray], streaming: bool = True) -> list[Transcript]:
        engine = self._engine(min(STREAMS, len(audio)) or 1)
        return [transcript(hypothesis(said), self.units) for said in engine.transcribe(audio)]

    def stream(self) -> "EngineStream":
        return EngineStream(self._engine(1), self.units)

    def _engine(self, streams: int) -> native.Engine:
        try:
            return native.Engine(self.model, self.chunk or 0, streams, self.kernels, self.search)
        except native.EngineError as error:
            raise UserError(f"--runtime engine: {error}") from None

    def _search(self, search: DecodingConfig) -> native.Search:
        """Raises UserError as `Searcher.open` does, and as its searches do."""
        if search.width > 1 and self.model.head == "ctc":
            raise UserError(CTC_BEAM)
        try:
            lm = search.lm and native.LanguageModel(self.model, search.lm)
        except native.EngineError as error:
            raise UserError(str(error)) from None
        return native.Search(
            search.width,
            lm,
            search.lm_scale,
            search.label_bonus,
            [spelt(phrase, self.units) for phrase in search.hotwords],
            search.hotword_score,
        )


class EngineStream(Utterance):
    """A `LiveStream` on an engine of its own."""

    def __init__(self, engine: native.Engine, units: Units) -> None:
        self.engine, self.units = engine, units
        self.number = engine.open()
        self.said: list[native.Token] = []
        self.guess: list[native.Token] = []

    def reset(self) -> None:
        self.finished = False
        self.engine.reset(self.number)
        self.said, self.guess = [], []

    def accept(self, samples: np.ndarray) -> None:
        self.check_unfinished()
        samples = waveform(samples)
        while len(samples):
            samples = samples[self.engine.accept(self.number, samples) :]
            self._decode()

    def transcript(self) -> Transcript:
        return transcript(hypothesis(self.said + self.guess), self.units)

    def finish(self) -> Transcript:
        self.check_unfinished()
        self.finished = True
        self.engine.finish(self.number)
        self._decode()
        return self.transcript()

    def _decode(self) -> None:
        while self.engine.step():
            result = self.engine.take(self.number)
            self.said += result.tokens
            self.guess = result.guess


def hypothesis(said: Sequence[native.Token]) -> Hypothesis:
    """An engine's tokens as our searches write them."""
    return Hypothesis([t.unit for t in said], [t.frame for t in said], [t.score for t in said])
