"""Running an exported folder in the unmodified sherpa-onnx wheel."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import sherpa_onnx

from pocketscribe.decoding.searcher import GREEDY, DecodingConfig, spelt
from pocketscribe.decoding.streaming import Transcript, Utterance, tail_silence
from pocketscribe.errors import UserError
from pocketscribe.export.graph_runtime import Exported, ExportedRuntime
from pocketscribe.export.onnx import tokens_text
from pocketscribe.export.onnx_lm import export_lm
from pocketscribe.export.onnx_runtime import (
    FLOAT,
    INT,
    Port,
    check_graphs,
    description,
    properties,
    sessions,
)
from pocketscribe.lm.ngram import load
from pocketscribe.models import MELS
from pocketscribe.models.predictor import CONTEXT
from pocketscribe.models.recogniser import LARGEST_STATE
from pocketscribe.speech.features import SAMPLE_RATE, waveform
from pocketscribe.speech.units import SPACE, Units

PRIVATE = 0xF0000  # the first of the characters that Unicode leaves to private use
HARMLESS = {"pocketscribe", "version", "model_author", "onnx.infer"}  # metadata for others


class SherpaRuntime(ExportedRuntime):
    """An `export --to sherpa-onnx` folder."""

    def __init__(self, folder: Path, search: DecodingConfig = GREEDY) -> None:
        """Raises UserError where a file is missing or damaged: the wheel would end the process."""
        about = description(folder)
        super().__init__(folder, about)
        tokens = folder / "tokens.txt"
        if not tokens.is_file() or tokens.read_text("utf-8", "replace") != tokens_text(self.units):
            raise UserError(f"{tokens}: missing or damaged; export the model again")
        _check_contract(folder, about, len(self.units))
        with TemporaryDirectory() as own:
            self.recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
                encoder=str(folder / "encoder.onnx"),
                decoder=str(folder / "decoder.onnx"),
                joiner=str(folder / "joiner.onnx"),
                num_threads=1,
                sample_rate=SAMPLE_RATE,
                feature_dim=MELS,
                decoding_method="modified_beam_search" if search.width > 1 else "greedy_search",
                max_active_paths=search.width,
                **{"tokens": str(tokens), **_guides(search, self.units, Path(own))},
            )

    def stream(self) -> "SherpaStream":
        return SherpaStream(self.recognizer, self.chunk)


def _guides(search: DecodingConfig, units: Units, folder: Path) -> dict[str, Any]:
    """What steers the wheel's beam search, with the files that it reads at its start in `folder`.

    The wheel's own spelling of hotwords (by bpe.vocab) is not sentencepiece's for one word in six
    of 256 BPE units, and it has none for characters. So each unit gets a second symbol, a single
    private character, which the wheel takes as it is.

    Raises:
        UserError: the language model does not fit, or a hotword cannot be spelt.
    """
    found: dict[str, Any] = {}
    if search.lm is not None:
        found |= {"lm": str(folder / "lm.onnx"), "lm_scale": 1.0}
        model = load(search.lm, units)
        export_lm(model, folder / "lm.onnx", search.label_bonus, search.lm_scale)
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


def _check_contract(folder: Path, about: Exported, units: int) -> None:
    """What the wheel believes without a look, and ends the process over, as tried.

    Raises:
        UserError: metadata and graphs do not fit each other, or a graph does not run.
    """
    if about.head != "transducer":
        raise UserError(f"{folder}: the wheel runs transducers alone; export it again")
    opened = sessions(folder, about)
    shapes = [tuple(port.shape) for port in opened["encoder"].get_inputs()]
    if [len(shape) for shape in shapes] != [3, 4, 4, 1]:
        raise UserError(f"{folder}: its encoder has other inputs than the wheel; export it again")
    (layers, left, _, width), (_, taps, _, _) = shapes[1:3]
    sizes = (layers, left, width, taps)
    fixed = all(isinstance(size, int) and 0 < size <= LARGEST_STATE for size in sizes)
    if not fixed or layers * width * (left + taps) > 2 * LARGEST_STATE:
        raise UserError(f"{folder}: its encoder's state has no size or too large a one")
    states: list[Port] = [
        ("cached_attn", FLOAT, (layers, left, None, width)),
        ("cached_conv", FLOAT, (layers, taps, None, width)),
    ]
    check_graphs(folder, opened, about, "x", states, [("processed_lens", INT, (None,))])
    contract = {
        "encoder": {
            "model_type": "conformer",
            "num_encoder_layers": layers,
            "T": about.frames,
            "decode_chunk_len": about.frames,
            "left_context": left,
            "encoder_dim": width,
            "pad_length": 0,
            "cnn_module_kernel": taps + 1,
        },
        "decoder": {"context_size": CONTEXT, "vocab_size": units},
        "joiner": {"joiner_dim": opened["joiner"].get_inputs()[0].shape[-1]},
    }
    for name, wanted in contract.items():
        found = properties(folder / f"{name}.onnx")
        unknown = sorted(found.keys() - wanted.keys() - HARMLESS)
        wrong = [key for key, value in wanted.items() if found.get(key) != str(value)]
        for key in (*wrong, *unknown):
            raise UserError(f"{folder}: {name}.onnx has the wrong {key!r}; export it again")


class SherpaStream(Utterance):
    """A `LiveStream` through the wheel's loop."""

    def __init__(self, recognizer: sherpa_onnx.OnlineRecognizer, chunk: int) -> None:
        self.recognizer, self.chunk = recognizer, chunk
        self.reset()

    def reset(self) -> None:
        self.finished = False
        self.stream = self.recognizer.create_stream()

    def accept(self, samples: np.ndarray) -> None:
        self.check_unfinished()
        self.stream.accept_waveform(SAMPLE_RATE, waveform(samples))
        self._decode()

    def _decode(self) -> None:
        while self.recognizer.is_ready(self.stream):
            self.recognizer.decode_stream(self.stream)

    def finish(self) -> Transcript:
        self.accept(tail_silence(self.chunk))
        self.finished = True
        self.stream.input_finished()
        self._decode()
        return self.transcript()

    def transcript(self) -> Transcript:
        result = self.recognizer.get_result_all(self.stream)
        # sherpa-onnx writes a word's first token with a space before it.
        tokens = [token.replace(" ", SPACE) for token in result.tokens]
        times = [round(float(t), 2) for t in result.timestamps]
        return Transcript(result.text.strip(), tokens, times, list(result.ys_probs))
