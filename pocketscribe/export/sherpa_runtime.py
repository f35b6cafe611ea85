"""Running an exported folder in the unmodified sherpa-onnx wheel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sherpa_onnx

from pocketscribe.decoding.streaming import Transcript, tail_silence
from pocketscribe.export.onnx_runtime import folder_bytes, metadata, session
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.features import SAMPLE_RATE
from pocketscribe.speech.units import SPACE


class SherpaRuntime:
    """An `export --to sherpa-onnx` folder; always streams."""

    def __init__(self, folder: Path, beam: int = 1, threads: int = 1) -> None:
        """Raises UserError where a file is missing or damaged: the wheel would end the process."""
        for name in ("decoder.onnx", "joiner.onnx"):
            session(folder / name, threads)
        about = metadata(session(folder / "encoder.onnx", threads), folder)
        self.card = about["card"]
        self.chunk = about["frames"] // FACTOR
        self.parameters_stored = self.parameters_virtual = about["parameters"]
        self.bytes = folder_bytes(folder)
        self.recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
            tokens=str(folder / "tokens.txt"),
            encoder=str(folder / "encoder.onnx"),
            decoder=str(folder / "decoder.onnx"),
            joiner=str(folder / "joiner.onnx"),
            num_threads=threads,
            sample_rate=SAMPLE_RATE,
            feature_dim=80,
            decoding_method="modified_beam_search" if beam > 1 else "greedy_search",
            max_active_paths=beam,
        )

    def transcribe(self, audio: Sequence[np.ndarray], streaming: bool = True) -> list[Transcript]:
        return [self._one(samples) for samples in audio]

    def _one(self, samples: np.ndarray) -> Transcript:
        stream = self.recognizer.create_stream()
        stream.accept_waveform(SAMPLE_RATE, samples)
        stream.accept_waveform(SAMPLE_RATE, tail_silence(self.chunk))
        stream.input_finished()
        while self.recognizer.is_ready(stream):
            self.recognizer.decode_stream(stream)
        result = self.recognizer.get_result_all(stream)
        # sherpa-onnx writes a word's first token with a space before it.
        tokens = [token.replace(" ", SPACE) for token in result.tokens]
        times = [round(float(t), 2) for t in result.timestamps]
        return Transcript(result.text.strip(), tokens, times)
