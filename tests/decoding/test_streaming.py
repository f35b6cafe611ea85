"""A stream hears the same however its audio is cut, and forgets all on reset."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketscribe.decoding import streaming
from pocketscribe.decoding.offline import decode
from pocketscribe.decoding.search import Hypothesis
from pocketscribe.decoding.searcher import Searcher
from pocketscribe.decoding.streaming import (
    LiveStream,
    Stream,
    TorchStreaming,
    Transcript,
    Word,
    hear,
    stream_one,
    tail_silence,
    transcript,
    whole_features,
)
from pocketscribe.errors import UserError
from pocketscribe.models import Chunking, ConformerConfig, ModelConfig, Recogniser
from pocketscribe.models.chunks import TAIL
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.features import SAMPLE_RATE, LiveFbank, read_audio
from pocketscribe.speech.units import Units, UnitsConfig

CHUNKING = Chunking(4, 8)
MakeStream = Callable[..., Stream]


@pytest.fixture(scope="module")
def units() -> Units:
    return Units.learn(["ONE TWO THREE", "FOUR FIVE SIX"], UnitsConfig(kind="char"))


def recogniser(units: Units, head: str = "transducer") -> Recogniser:
    torch.manual_seed(0)
    encoder = ConformerConfig(width=16, layers=1, heads=2, kernel=3, ffn=1)
    config = ModelConfig(encoder=encoder, head=head, predictor=8, joiner=8, subsampling=8)
    model = Recogniser(config, len(units)).eval()
    model.mean.fill_(-8)  # about the level of the noise below
    with torch.no_grad():  # untrained, yet talkative
        (model.ctc if head == "ctc" else model.joiner.out).weight.stored.mul_(20)
    return model


@pytest.fixture
def make(units: Units) -> MakeStream:
    def make(beam: int = 1, chunking: Chunking = CHUNKING, head: str = "transducer") -> Stream:
        return Stream(TorchStreaming(recogniser(units, head), chunking), units, Searcher(beam))

    return make


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose level moves, so that something happens."""
    generator = np.random.default_rng(seed)
    samples = generator.normal(size=round(seconds * SAMPLE_RATE))
    level = np.repeat(generator.uniform(0.001, 0.3, len(samples) // 1600 + 1), 1600)
    return (samples * level[: len(samples)]).astype(np.float32)


def in_blocks(stream: Stream, samples: np.ndarray, sizes: list[int]) -> Transcript:
    """The last size is repeated."""
    start = 0
    while start < len(samples):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        stream.accept(samples[start : start + size])
        start += size
    return stream.finish()


@pytest.mark.parametrize("sizes", [[1600], [37], [1, 5000, 2, 160], [399, 1, 100_000]])
@pytest.mark.parametrize(("head", "beam"), [("transducer", 1), ("transducer", 3), ("ctc", 1)])
def test_blocks_of_any_size_are_one_block(
    make: MakeStream, sizes: list[int], head: str, beam: int
) -> None:
    samples = noise(1.7)
    whole = stream_one(make(beam, head=head), samples)
    assert len(whole.tokens) > 3
    assert in_blocks(make(beam, head=head), samples, list(sizes)) == whole


@pytest.mark.parametrize("chunking", [Chunking(1, 4), Chunking(4, 0), Chunking(16, 16)])
@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_a_stream_is_offline_decoding_of_the_same_frames(
    make: MakeStream, units: Units, chunking: Chunking, head: str
) -> None:
    samples = noise(2.3)
    live = LiveFbank()
    live.accept(np.concatenate([samples, tail_silence(chunking.size or 0)]))
    live.finish()
    # Whole chunks, and one frame that is always left: sherpa-onnx' strict "more than".
    chunk = FACTOR * (chunking.size or 0)
    features = torch.from_numpy(live.take((live.ready - 1) // chunk * chunk))
    assert len(features) >= len(samples) / 160
    offline = decode(recogniser(units, head), [features], chunking)[0]
    assert stream_one(make(1, chunking, head), samples) == transcript(offline, units)


def test_text_grows_while_audio_comes(make: MakeStream) -> None:
    stream, samples = make(), noise(2.0)
    seen = [stream.transcript()]
    for block in np.split(samples, 20):
        stream.accept(block)
        seen.append(stream.transcript())
    seen.append(stream.finish())
    assert seen[0] == Transcript("", [], [])
    assert len({t.text for t in seen}) > 4
    for before, after in pairwise(seen):  # greedy never takes a word back
        assert after.tokens[: len(before.tokens)] == before.tokens
        assert after.timestamps[: len(before.timestamps)] == before.timestamps


def test_a_chunk_is_decoded_as_soon_as_one_more_frame_is_there(make: MakeStream) -> None:
    stream = make(chunking=Chunking(4, 8))
    # A frame is ready when the 25 ms around it are: frame k needs 160 k + 280 samples.
    enough = 160 * 16 + 280
    stream.accept(noise(1.0)[: enough - 1])
    assert stream.search.clock == 0
    stream.accept(noise(1.0)[enough - 1 : enough])
    assert stream.search.clock == 4


def test_words_have_times_and_confidences() -> None:
    """Characters and longer units; a mark alone opens a word but says nothing of its time."""
    half, sure = math.log(0.5), 0.0
    tokens = ["\u2581O", "NE", "\u2581", "T", "W", "\u2581"]
    times = [0.4, 0.8, 0.88, 1.2, 1.24, 2.0]
    said = Transcript("ONE TW", tokens, times, [half, sure, sure, half, half, half])
    assert said.words == [
        Word("ONE", 0.4, 0.84, 0.7071),
        Word("TW", 1.2, 1.28, 0.63),
    ]
    assert Transcript("ONE", ["ONE"], [0.0]).words == [Word("ONE", 0.0, 0.04, None)]
    assert Transcript("", [], []).words == []


def test_words_are_the_text(make: MakeStream) -> None:
    said = stream_one(make(), noise(3.0))
    assert said.words
    assert [word.word for word in said.words] == said.text.split()
    assert all(0 < word.confidence <= 1 for word in said.words if word.confidence is not None)
    assert all(a.start < a.end <= b.start + 0.04 for a, b in pairwise(said.words))


def test_a_text_is_shown_while_it_grows(make: MakeStream, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, shown = noise(2.0), list[str]()
    monkeypatch.setattr(streaming, "SHOW_SECONDS", 0.0)
    said = hear(make(), np.split(samples, 10), shown.append)
    assert said == stream_one(make(), samples)
    assert len(shown) == 10 and len(set(shown)) > 3
    assert said.text.startswith(shown[-1])


def test_reset_forgets_everything(make: MakeStream) -> None:
    stream = make()
    first, second = noise(1.1, 1), noise(1.3, 2)
    expected = stream_one(make(), second)
    for finish_first in (True, False):
        stream.accept(first)
        if finish_first:
            stream.finish()
        stream.reset()
        assert stream.transcript() == Transcript("", [], [])
        assert stream_one(stream, second) == expected
        stream.reset()  # after its end an utterance takes no more audio


def test_after_the_end_only_reset_goes(make: MakeStream) -> None:
    stream = make()
    stream.finish()
    for use in (stream.finish, lambda: stream.accept(np.zeros(10, np.float32))):
        with pytest.raises(UserError, match=r"is finished: reset\(\) begins another"):
            use()
    stream.transcript()
    stream.reset()
    stream.accept(np.zeros(10, np.float32))


def test_timestamps_are_frames_of_40_ms(make: MakeStream, units: Units) -> None:
    said = transcript(Hypothesis([2, 3, 4], [0, 7, 26]), units)
    assert said.timestamps == [0.0, 0.28, 1.04]
    assert said.tokens == units.pieces([2, 3, 4]) and said.text == units.decode([2, 3, 4])
    heard = stream_one(make(), noise(2.0))
    assert len(heard.timestamps) == len(heard.tokens)
    assert heard.timestamps == sorted(heard.timestamps)
    assert 1.0 < heard.timestamps[-1] <= 2.0 + 0.4 + 0.17


@pytest.mark.parametrize("chunk", [1, 4, 16])
@pytest.mark.parametrize("count", [0, 1, 79, 80, 159, 160, 1000, 2559, 2560, 10_239, 10_240])
def test_the_tail_pushes_the_last_sample_through(make: MakeStream, chunk: int, count: int) -> None:
    """However short the audio: 0.4 s of silence after it, and what completes a chunk."""
    stream = make(chunking=Chunking(chunk, 16))
    said = stream_one(stream, noise(2.0)[:count])
    silence = FACTOR * stream.search.clock - (count + 80) // 160
    assert TAIL <= silence < TAIL + FACTOR * chunk
    assert len(said.tokens) == len(said.timestamps) == len(said.scores)


@pytest.mark.parametrize("chunk", [1, 4, 16])
@pytest.mark.parametrize("count", [0, 1, 159, 160, 1000, 2560, 9000, *range(20_000, 33_000, 1601)])
def test_offline_ends_with_the_same_silence(make: MakeStream, chunk: int, count: int) -> None:
    """Of another length it would lose, or find, labels at an utterance's end."""
    chunking, samples = Chunking(chunk, 16), noise(2.1)[:count]
    stream = make(chunking=chunking)
    said = stream_one(stream, samples)
    features = whole_features(samples, chunking)
    assert len(features) == FACTOR * stream.search.clock
    [offline] = decode(stream.model.model, [features], chunking)  # type: ignore[attr-defined]
    assert transcript(offline, stream.units) == said


def test_full_context_ends_with_silence_too() -> None:
    assert len(whole_features(noise(1.0), Chunking(None))) == 100 + TAIL


def test_empty_blocks_are_nothing(make: MakeStream) -> None:
    stream, samples = make(), noise(0.9)
    for block in (samples[:0], samples[:5000], samples[:0], samples[5000:], samples[:0]):
        stream.accept(block)
    assert stream.finish() == stream_one(make(), samples)


def test_a_stream_is_a_live_stream(make: MakeStream) -> None:
    assert isinstance(make(), LiveStream)


def test_real_speech_in_blocks(make: MakeStream, corpora: Path) -> None:
    samples = read_audio(min((corpora / "librispeech_sample").rglob("*.opus")))[: 4 * SAMPLE_RATE]
    whole = stream_one(make(), samples)
    assert len(whole.tokens) > 10
    assert in_blocks(make(), samples, [3, 12_345, 777]) == whole
