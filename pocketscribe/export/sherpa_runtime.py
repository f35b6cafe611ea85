"""Running an exported folder in the unmodified sherpa-onnx wheel."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sherpa_onnx

from pocketscribe.decoding.streaming import Transcript, stream_one, tail_silence
from pocketscribe.errors import UserError
from pocketscribe.export.graph_runtime import folder_bytes
from pocketscribe.export.onnx import tokens_text
from pocketscribe.export.onnx_runtime import metadata, session
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.features import SAMPLE_RATE
from pocketscribe.speech.units import SPACE, UNKNOWN, Units

PRIVATE = 0xF0000  # the first of the characters that Unicode leaves to private use


class SherpaRuntime:
    """An `export --to sherpa-onnx` folder."""

    always_streams = True

    def __init__(
        self,
        folder: Path,
        beam: int = 1,
        threads: int = 1,
        hotwords: Sequence[str] = (),
        hotwords_score: float = 1.5,
    ) -> None:
        """`hotwords_score` is a bonus in nats for each unit of a hotword; a phrase may be one.

        Raises:
            UserError: a file is missing or damaged, or hotwords are given to greedy search or
                cannot be spelt: the wheel would end the process.
        """
        if hotwords and beam == 1:
            raise UserError("hotwords need beam search; give a beam of 2 or more, such as 4")
        for name in ("decoder.onnx", "joiner.onnx"):
            session(folder / name, threads)
        about = metadata(session(folder / "encoder.onnx", threads), folder)
        tokens = folder / "tokens.txt"
        units = Units.from_json(about["units"], str(folder))
        if not tokens.is_file() or tokens.read_text("utf-8", "replace") != tokens_text(units):
            raise UserError(f"{tokens}: missing or damaged; export the model again")
        self.chunk = about["frames"] // FACTOR
        self.parameters_stored = about["parameters_stored"]
        self.parameters_virtual = about["parameters_virtual"]
        self.bytes = folder_bytes(folder)
        with tempfile.TemporaryDirectory() as own:
            self.recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
                encoder=str(folder / "encoder.onnx"),
                decoder=str(folder / "decoder.onnx"),
                joiner=str(folder / "joiner.onnx"),
                num_threads=threads,
                sample_rate=SAMPLE_RATE,
                feature_dim=80,
                decoding_method="modified_beam_search" if beam > 1 else "greedy_search",
                max_active_paths=beam,
                hotwords_score=hotwords_score,
                **(_hotwords(hotwords, units, Path(own)) if hotwords else {"tokens": str(tokens)}),
            )

    def transcribe(self, audio: Sequence[np.ndarray], streaming: bool = True) -> list[Transcript]:
        return [stream_one(self.stream(), x) for x in audio]

    def stream(self) -> "SherpaStream":
        return SherpaStream(self.recognizer, self.chunk)


def _hotwords(words: Sequence[str], units: Units, folder: Path) -> dict[str, str]:
    """Arguments by which the wheel favours `words`, with what it reads written to `folder`.

    The wheel's own spelling of words (by bpe.vocab) is not sentencepiece's for one word in six of
    256 BPE units, and it has none for characters. So each unit gets a second symbol, a single
    private character, which the wheel takes as it is.
    """
    spelt = {word: units.encode(word) for word in words}
    for word, ids in spelt.items():
        if not ids or UNKNOWN in ids:
            raise UserError(f"hotword {word!r}: the model's units cannot spell it; leave it out")
    symbols = "".join(f"{chr(PRIVATE + i)} {i}\n" for i in range(len(units)))
    lines = (" ".join(chr(PRIVATE + i) for i in ids) + "\n" for ids in spelt.values())
    tokens, hotwords = folder / "tokens.txt", folder / "hotwords.txt"
    tokens.write_text(tokens_text(units) + symbols, encoding="utf-8")
    hotwords.write_text("".join(lines), encoding="utf-8")
    files = {"tokens": str(tokens), "hotwords_file": str(hotwords)}
    return {**files, "modeling_unit": "cjkchar"}


class SherpaStream:
    """A `LiveStream` through the wheel's loop."""

    def __init__(self, recognizer: sherpa_onnx.OnlineRecognizer, chunk: int) -> None:
        self.recognizer, self.chunk = recognizer, chunk
        self.reset()

    def reset(self) -> None:
        self.stream = self.recognizer.create_stream()

    def accept(self, samples: np.ndarray) -> None:
        self.stream.accept_waveform(SAMPLE_RATE, samples)
        while self.recognizer.is_ready(self.stream):
            self.recognizer.decode_stream(self.stream)

    def finish(self) -> Transcript:
        self.accept(tail_silence(self.chunk))
        self.stream.input_finished()
        self.accept(np.zeros(0, np.float32))
        return self.transcript()

    def transcript(self) -> Transcript:
        result = self.recognizer.get_result_all(self.stream)
        # sherpa-onnx writes a word's first token with a space before it.
        tokens = [token.replace(" ", SPACE) for token in result.tokens]
        times = [round(float(t), 2) for t in result.timestamps]
        return Transcript(result.text.strip(), tokens, times)
