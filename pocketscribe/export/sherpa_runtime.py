"""Running an exported folder in the unmodified sherpa-onnx wheel."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import sherpa_onnx

from pocketscribe.decoding.ngram import load
from pocketscribe.decoding.searcher import GREEDY, SearchConfig, spelt
from pocketscribe.decoding.streaming import Transcript, stream_one, tail_silence
from pocketscribe.errors import UserError
from pocketscribe.export.graph_runtime import folder_bytes
from pocketscribe.export.onnx import tokens_text
from pocketscribe.export.onnx_lm import export_lm
from pocketscribe.export.onnx_runtime import metadata, session
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.features import SAMPLE_RATE
from pocketscribe.speech.units import SPACE, Units

PRIVATE = 0xF0000  # the first of the characters that Unicode leaves to private use


class SherpaRuntime:
    """An `export --to sherpa-onnx` folder."""

    always_streams = True

    def __init__(self, folder: Path, search: SearchConfig = GREEDY, threads: int = 1) -> None:
        """Raises UserError where a file is missing or damaged: the wheel would end the process."""
        for name in ("decoder.onnx", "joiner.onnx"):
            session(folder / name, threads)
        about = metadata(session(folder / "encoder.onnx", threads), folder)
        tokens = folder / "tokens.txt"
        self.units = Units.from_json(about["units"], str(folder))
        if not tokens.is_file() or tokens.read_text("utf-8", "replace") != tokens_text(self.units):
            raise UserError(f"{tokens}: missing or damaged; export the model again")
        self.chunk = about["frames"] // FACTOR
        self.parameters_stored = about["parameters_stored"]
        self.parameters_virtual = about["parameters_virtual"]
        self.bytes = folder_bytes(folder)
        with TemporaryDirectory() as own:
            self.recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
                encoder=str(folder / "encoder.onnx"),
                decoder=str(folder / "decoder.onnx"),
                joiner=str(folder / "joiner.onnx"),
                num_threads=threads,
                sample_rate=SAMPLE_RATE,
                feature_dim=80,
                decoding_method="modified_beam_search" if search.width > 1 else "greedy_search",
                max_active_paths=search.width,
                **{"tokens": str(tokens), **_guides(search, self.units, Path(own))},
            )

    def transcribe(self, audio: Sequence[np.ndarray], streaming: bool = True) -> list[Transcript]:
        return [stream_one(self.stream(), x) for x in audio]

    def stream(self) -> "SherpaStream":
        return SherpaStream(self.recognizer, self.chunk)


def _guides(search: SearchConfig, units: Units, folder: Path) -> dict[str, Any]:
    """What steers the wheel's beam search, with the files that it reads at its start in `folder`.

    The wheel's own spelling of hotwords (by bpe.vocab) is not sentencepiece's for one word in six
    of 256 BPE units, and it has none for characters. So each unit gets a second symbol, a single
    private character, which the wheel takes as it is.

    Raises:
        UserError: the language model does not fit, or a hotword cannot be spelt.
    """
    found: dict[str, Any] = {}
    if search.lm is not None:
        found |= {"lm": str(folder / "lm.onnx"), "lm_scale": search.lm_scale}
        export_lm(load(search.lm, units), folder / "lm.onnx")
    if search.hotwords:
        symbols = "".join(f"{chr(PRIVATE + i)} {i}\n" for i in range(len(units)))
        words = [spelt(phrase, units) for phrase in search.hotwords]
        lines = (" ".join(chr(PRIVATE + i) for i in word) + "\n" for word in words)
        tokens, hotwords = folder / "tokens.txt", folder / "hotwords.txt"
        tokens.write_text(tokens_text(units) + symbols, encoding="utf-8")
        hotwords.write_text("".join(lines), encoding="utf-8")
        found |= {"tokens": str(tokens), "hotwords_file": str(hotwords)}
        found |= {"hotwords_score": search.hotword_score, "modeling_unit": "cjkchar"}
    return found


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
