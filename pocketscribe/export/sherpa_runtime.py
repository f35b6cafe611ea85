"""Running an exported folder in the unmodified sherpa-onnx wheel."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sherpa_onnx

from pocketscribe.decoding.searcher import GREEDY, SearchConfig
from pocketscribe.decoding.streaming import Transcript, stream_one, tail_silence
from pocketscribe.errors import UserError
from pocketscribe.export.graph_runtime import Exported
from pocketscribe.export.onnx import tokens_text
from pocketscribe.export.onnx_runtime import (
    FLOAT,
    INT,
    Port,
    check_graphs,
    description,
    properties,
    sessions,
)
from pocketscribe.export.seal import folder_bytes
from pocketscribe.models.predictor import CONTEXT
from pocketscribe.models.recogniser import LARGEST_STATE
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.features import SAMPLE_RATE
from pocketscribe.speech.units import SPACE, UNKNOWN, Units

PRIVATE = 0xF0000  # the first of the characters that Unicode leaves to private use

HARMLESS = {"pocketscribe", "version", "model_author", "onnx.infer"}  # metadata for others


class SherpaRuntime:
    """An `export --to sherpa-onnx` folder."""

    always_streams = True

    def __init__(
        self,
        folder: Path,
        search: SearchConfig = GREEDY,
        threads: int = 1,
        hotwords: Sequence[str] = (),
        hotwords_score: float = 1.5,
    ) -> None:
        """`hotwords_score` is a bonus in nats for each unit of a hotword; a phrase may be one.

        Raises:
            UserError: a file is missing or damaged, or hotwords are given to greedy search or
                cannot be spelt: the wheel would end the process.
        """
        if hotwords and search.beam == 1:
            raise UserError("hotwords need beam search; give a beam of 2 or more, such as 4")
        about = description(folder)
        tokens = folder / "tokens.txt"
        units = Units.from_json(about.units, str(folder))
        if not tokens.is_file() or tokens.read_text("utf-8", "replace") != tokens_text(units):
            raise UserError(f"{tokens}: missing or damaged; export the model again")
        _check_contract(folder, about, len(units))
        self.card = about.card
        self.chunk = about.frames // FACTOR
        self.parameters_stored = about.parameters_stored
        self.parameters_virtual = about.parameters_virtual
        self.bytes = folder_bytes(folder)
        with tempfile.TemporaryDirectory() as own:
            self.recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
                encoder=str(folder / "encoder.onnx"),
                decoder=str(folder / "decoder.onnx"),
                joiner=str(folder / "joiner.onnx"),
                num_threads=threads,
                sample_rate=SAMPLE_RATE,
                feature_dim=80,
                decoding_method="modified_beam_search" if search.beam > 1 else "greedy_search",
                max_active_paths=search.beam,
                hotwords_score=hotwords_score,
                **(_hotwords(hotwords, units, Path(own)) if hotwords else {"tokens": str(tokens)}),
            )

    def transcribe(self, audio: Sequence[np.ndarray], streaming: bool = True) -> list[Transcript]:
        return [stream_one(self.stream(), x) for x in audio]

    def stream(self) -> "SherpaStream":
        return SherpaStream(self.recognizer, self.chunk)


def _check_contract(folder: Path, about: Exported, units: int) -> None:
    """What the wheel believes without a look, and ends the process over: deployment.md.

    Raises:
        UserError: metadata and graphs do not fit each other, or a graph does not run.
    """
    if about.head != "transducer":
        raise UserError(f"{folder}: the wheel runs transducers alone; export it again")
    opened = sessions(folder, about, threads=1)
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
        return Transcript(result.text.strip(), tokens, times, list(result.ys_probs))
