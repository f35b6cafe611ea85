"""The engine's beam search finds what decoding/beam.py finds, and shows nothing final too early."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pocketscribe_engine as native
import pytest

from pocketscribe.decoding.searcher import DecodingConfig
from pocketscribe.export.engine_runtime import EngineRuntime
from pocketscribe.export.torch_runtime import TorchRuntime

BEAM = native.Search(beam=4)


def test_the_shipped_model(lite: Path, speech: np.ndarray, the_same: Callable[..., str]) -> None:
    texts = [the_same(lite, DecodingConfig(beam=beam), speech) for beam in (1, 2, 4)]
    assert len(set(texts)) > 1


@pytest.mark.parametrize(("beam", "chunk"), [(2, 8), (4, 4), (7, 4)])
def test_it_is_the_python_search(
    beam: int, chunk: int, unsure: Path, utterances: list[np.ndarray]
) -> None:
    search = DecodingConfig(beam=beam)
    audio = [utterances[0], np.concatenate(utterances[:4]), utterances[0][:0]]
    expected = TorchRuntime(unsure, search, chunk).transcribe(audio, streaming=True)
    found = EngineRuntime(unsure, search, chunk).transcribe(audio)
    greedy = EngineRuntime(unsure, chunk=chunk).transcribe(audio)
    assert found == expected and found != greedy
    assert len(found[1].tokens) > 20
    for one, other in zip(expected, found, strict=True):
        assert other.scores == pytest.approx(one.scores, abs=1e-3)


def test_what_is_shown_meanwhile(unsure: Path, utterances: list[np.ndarray]) -> None:
    """Of a live stream: PyTorch's text at every moment; what was called final stays as it was."""
    samples = np.concatenate(utterances[:4])
    search = DecodingConfig(beam=4)
    torch, ours = (kind(unsure, search).stream() for kind in (TorchRuntime, EngineRuntime))
    finals, texts, guessed = [], [], 0
    for block in np.array_split(samples, 41):
        torch.accept(block)
        ours.accept(block)
        assert ours.transcript() == torch.transcript()
        finals.append(list(ours.said))
        texts.append(ours.said + ours.guess)
        guessed += bool(ours.guess)
    assert ours.finish() == torch.finish() and not ours.guess
    assert all(ours.said[: len(final)] == final for final in finals)
    assert guessed > 5 and len(finals[-1]) > 5
    assert any(ours.said[: len(text)] != text for text in texts)  # guesses were taken back


@pytest.mark.parametrize("beam", [3, 9])
def test_the_same_bits_everywhere(beam: int, unsure: Path, utterances: list[np.ndarray]) -> None:
    """On every instruction set and in every company, chunks that are shorter than the beam too."""
    model = native.Model(unsure)
    found = set()
    for kernels in native.kernels():
        for streams in (1, 2, 4):
            engine = native.Engine(model, 4, streams, kernels, native.Search(beam))
            found.add(repr(engine.transcribe(utterances[:4])))
    assert len(found) == 1


def test_streams_come_and_go(unsure: Path, utterances: list[np.ndarray]) -> None:
    model = native.Model(unsure)
    wanted = native.Engine(model, search=BEAM).transcribe(utterances)
    engine = native.Engine(model, streams=2, search=BEAM)
    first, second = engine.open(), engine.open()
    engine.accept(second, utterances[1])
    for number, (said, samples) in enumerate(zip(wanted, utterances, strict=True)):
        engine.reset(first)
        engine.accept(first, utterances[(number + 1) % 6][: 3000 * number])
        engine.step()
        engine.reset(first)
        if number % 2:
            engine.close(second)
            second = engine.open()
            engine.accept(second, samples)
        assert transcribe_on(engine, first, samples) == said


def transcribe_on(engine: native.Engine, stream: int, samples: np.ndarray) -> list[native.Token]:
    """Labels that nobody takes for a while, results that are taken twice."""
    said: list[native.Token] = []
    for step in count():
        taken = engine.accept(stream, samples)
        samples = samples[taken:]
        if (not engine.step() and not taken) or step % 3 == 0:
            said += engine.take(stream).tokens
            again = engine.take(stream)
            assert not again.tokens and again.guess == engine.take(stream).guess
        if not len(samples):
            break
    engine.finish(stream)
    while not (result := engine.take(stream)).finished:
        said += result.tokens
        engine.step()
    return said + result.tokens


def test_beam_one_is_greedy(packed: Path, utterances: list[np.ndarray]) -> None:
    model = native.Model(packed)
    greedy = native.Engine(model).transcribe(utterances)
    assert native.Engine(model, search=native.Search(beam=1)).transcribe(utterances) == greedy


def test_silence_is_what_follows_the_best_hypothesis(
    unsure: Path, utterances: list[np.ndarray]
) -> None:
    engine = native.Engine(native.Model(unsure), search=BEAM)
    stream = engine.open()
    samples = np.concatenate([utterances[0], np.zeros(16000, np.float32)])
    said: list[native.Token] = []
    assert engine.take(stream).silence == 0
    for block in np.array_split(samples, 20):
        engine.accept(stream, block)
        engine.step()
        result = engine.take(stream)
        said += result.tokens
        last = [-1, *(t.frame for t in said + result.guess)][-1]
        assert result.silence == max(result.frames - 1 - last, 0)
    assert said


def test_a_beam_that_it_refuses(unsure: Path) -> None:
    for beam in (-1, 65):
        with pytest.raises(native.EngineError, match=f"beam = {beam}: give 1 to 64"):
            native.Engine(native.Model(unsure), search=native.Search(beam))


def test_what_stays_undecided_for_long_is_cut(unsure: Path, utterances: list[np.ndarray]) -> None:
    """Hypotheses that differ in more labels than there is memory for: the best one stays."""
    engine = native.Engine(native.Model(unsure), 8, search=native.Search(64))
    stream, said, guesses, final = engine.open(), 0, [], []
    for samples in utterances * 16:
        while len(samples):
            samples = samples[engine.accept(stream, samples) :]
            while engine.step():
                result = engine.take(stream)
                said += len(result.tokens)
                guesses.append(len(result.guess))
                final.append(len(result.tokens))
    assert 200 < max(guesses) <= 256 < max(final)
    assert said > 800
