"""PyTorch streaming = the unmodified sherpa-onnx wheel: text, tokens and times."""

from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import onnx
import pytest
import sherpa_onnx
import torch

from pocketscribe.decoding.search import GreedySearch
from pocketscribe.decoding.searcher import DecodingConfig, Searcher
from pocketscribe.decoding.streaming import TorchStreaming, Transcript, tail_silence, transcript
from pocketscribe.export.sherpa_runtime import SherpaRuntime
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.models.saved import Saved
from pocketscribe.speech.features import SAMPLE_RATE, LiveFbank
from pocketscribe.speech.units import SPACE, Units

CHUNK = 4
FRAMES = 4 * CHUNK


@pytest.mark.parametrize("beam", [1, 3], ids=["greedy", "beam"])
@pytest.mark.parametrize("length", ["shorter than a chunk", "seconds", "over 20 s"])
def test_transcripts_equal_those_of_pytorch(
    pytorch: Callable[[str, int], Transcript],
    sherpa_folder: Path,
    speech: dict[str, np.ndarray],
    length: str,
    beam: int,
) -> None:
    [found] = SherpaRuntime(sherpa_folder, DecodingConfig(beam=beam)).transcribe([speech[length]])
    assert found == pytorch(length, beam)


@pytest.mark.parametrize("beam", [1, 3], ids=["greedy", "beam"])
def test_transcripts_of_real_speech_equal_those_of_pytorch(
    model_path: Path, sherpa_folder: Path, real_speech: np.ndarray, beam: int
) -> None:
    search = DecodingConfig(beam=beam)
    [expected] = TorchRuntime(model_path, search).transcribe([real_speech], streaming=True)
    assert SherpaRuntime(sherpa_folder, search).transcribe([real_speech]) == [expected]
    assert len(set(expected.tokens)) > 4 and expected.timestamps[-1] > 20


@pytest.mark.parametrize("method", ["greedy_search", "modified_beam_search"])
def test_two_streams_at_once_equal_one_by_one(
    sherpa_folder: Path, utterances: list[np.ndarray], method: str
) -> None:
    recognizer = wheel(sherpa_folder, decoding_method=method)
    alone = [streamed(recognizer, [x]) for x in utterances[1::4]]
    assert [streamed(recognizer, utterances[1::4])] == [[text for [text] in alone]]
    assert all(text for [text] in alone)


def test_endpoint_reset(sherpa_folder: Path, saved: Saved, utterances: list[np.ndarray]) -> None:
    """The wheel forgets its labels and its frame count, yet its caches go on: so in PyTorch."""
    pause = np.zeros(2 * SAMPLE_RATE, np.float32)
    audio = np.concatenate([utterances[1], pause, *utterances[2:], tail_silence(CHUNK)])
    recognizer = wheel(
        sherpa_folder,
        enable_endpoint_detection=True,
        rule1_min_trailing_silence=99.0,
        rule2_min_trailing_silence=0.8,
        rule3_min_utterance_length=99.0,
    )
    stream = recognizer.create_stream()
    stream.accept_waveform(SAMPLE_RATE, audio)
    stream.input_finished()
    found, chunks, resets = [], 0, []
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
        chunks += 1
        if recognizer.is_endpoint(stream):
            found.append(result(recognizer, stream))
            recognizer.reset(stream)
            resets.append(chunks)
    found.append(result(recognizer, stream))
    first = len(utterances[1]) / SAMPLE_RATE
    assert first < resets[0] * CHUNK * 0.04 < first + 2, "the first endpoint is in the pause"
    assert found == list(with_resets(saved, audio, resets))
    assert all(len(set(t.tokens)) > 2 for t in found[:2]), "both utterances were heard"


def with_resets(saved: Saved, audio: np.ndarray, resets: list[int]) -> Iterator[Transcript]:
    """PyTorch's transcripts; after the chunks `resets` a new search takes over the last labels."""
    units = Units.from_json(saved.units)
    model = TorchStreaming(saved.model, saved.model.config.chunks.streaming)
    features = LiveFbank()
    features.accept(audio)
    features.finish()
    state, search, chunks = model.initial_state(1), Searcher().start(model.scorer, 1), 0
    while features.ready > FRAMES:
        chunk = torch.from_numpy(features.take(FRAMES)).unsqueeze(0)
        encoded, state = model.step(chunk, state)
        search.advance(encoded, torch.tensor([CHUNK]))
        chunks += 1
        if chunks in resets:
            yield transcript(search.best()[0], units)
            assert isinstance(search, GreedySearch)
            old, search = search, Searcher().start(model.scorer, 1)
            search.contexts = old.contexts
    yield transcript(search.best()[0], units)


def test_metadata_is_the_contract(sherpa_folder: Path, saved: Saved) -> None:
    encoder = onnx.load(sherpa_folder / "encoder.onnx")
    keys = {p.key: p.value for p in encoder.metadata_props}
    state = saved.model.initial_state(1, left=8)
    row = -(-sum(t.numel() for t in state.values()) // 2)
    assert (
        keys.items()
        >= {
            "model_type": "conformer",
            "num_encoder_layers": "1",
            "left_context": "1",
            "encoder_dim": str(row),
            "cnn_module_kernel": "2",
            "pad_length": "0",
            "T": str(FRAMES),
            "decode_chunk_len": str(FRAMES),
        }.items()
    )
    # The runtime makes zeros of these shapes; tensors match by position.
    assert shapes(encoder.graph.input) == [
        ("x", ["N", FRAMES, 80]),
        ("cached_attn", [1, 1, "N", row]),
        ("cached_conv", [1, 1, "N", row]),
        ("processed_lens", ["N"]),
    ]
    assert shapes(encoder.graph.output) == [
        ("encoder_out", ["N", CHUNK, 16]),
        ("new_cached_attn", [1, 1, "N", row]),
        ("new_cached_conv", [1, 1, "N", row]),
    ]
    decoder = onnx.load(sherpa_folder / "decoder.onnx")
    sizes = {p.key: p.value for p in decoder.metadata_props}
    assert sizes == {"context_size": "2", "vocab_size": str(saved.model.vocabulary)}
    assert shapes(decoder.graph.input) == [("y", ["N", 2])]
    assert shapes(decoder.graph.output) == [("decoder_out", ["N", 16])]
    joiner = onnx.load(sherpa_folder / "joiner.onnx")
    assert shapes(joiner.graph.input) == [("encoder_out", ["N", 16]), ("decoder_out", ["N", 16])]
    assert shapes(joiner.graph.output) == [("logit", ["N", saved.model.vocabulary])]


def test_int8_says_nearly_the_same(
    sherpa_folder: Path, int8_folder: Path, speech: dict[str, np.ndarray]
) -> None:
    [exact] = SherpaRuntime(sherpa_folder).transcribe([speech["over 20 s"]])
    [rounded] = SherpaRuntime(int8_folder).transcribe([speech["over 20 s"]])
    assert SequenceMatcher(None, exact.tokens, rounded.tokens, autojunk=False).ratio() > 0.8


def wheel(folder: Path, **options: object) -> sherpa_onnx.OnlineRecognizer:
    files = {name: str(folder / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")}
    tokens = str(folder / "tokens.txt")
    return sherpa_onnx.OnlineRecognizer.from_transducer(tokens=tokens, **files, **options)


def streamed(recognizer: sherpa_onnx.OnlineRecognizer, audio: list[np.ndarray]) -> list[str]:
    """Texts of utterances that are decoded side by side, as long as each has audio left."""
    streams = [recognizer.create_stream() for _ in audio]
    for stream, samples in zip(streams, audio, strict=True):
        stream.accept_waveform(SAMPLE_RATE, samples)
        stream.accept_waveform(SAMPLE_RATE, tail_silence(CHUNK))
        stream.input_finished()
    while ready := [s for s in streams if recognizer.is_ready(s)]:
        recognizer.decode_streams(ready)
    return [recognizer.get_result(s) for s in streams]


def result(
    recognizer: sherpa_onnx.OnlineRecognizer, stream: sherpa_onnx.OnlineStream
) -> Transcript:
    found = recognizer.get_result_all(stream)
    tokens = [token.replace(" ", SPACE) for token in found.tokens]
    return Transcript(found.text.strip(), tokens, [round(t, 2) for t in found.timestamps])


def shapes(values: list[onnx.ValueInfoProto]) -> list[tuple[str, list[int | str]]]:
    """Names and shapes, a free dimension by its name; N is the number of streams."""
    return [
        (v.name, ["N" if d.dim_param else d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in values
    ]
