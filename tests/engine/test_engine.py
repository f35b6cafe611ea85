"""The engine hears what PyTorch hears: in every format, on every instruction set, in company."""

import subprocess
import sys
from itertools import cycle
from pathlib import Path

import numpy as np
import pocketscribe_engine as native
import pytest

from pocketscribe.decoding.streaming import Transcript
from pocketscribe.export.engine_runtime import EngineRuntime, hypothesis
from pocketscribe.export.torch_runtime import TorchRuntime
from talkative import babbling

EXACT = {  # with float activations the two differ in last bits alone
    "float16": [],
    "int8": [{"match": "*", "bits": 8}],
    "int4 2:4": [{"match": "*.depthwise", "bits": 8}, {"match": "*", "bits": 4, "sparsity": "2:4"}],
    "int2 blocks": [{"match": "*", "bits": 2, "symmetric": False, "block": 8, "clip": "search"}],
    "int4 low": [{"match": "*", "bits": 4, "symmetric": False}],
    "int2 1:4 low": [{"match": "*", "bits": 2, "symmetric": False, "sparsity": "1:4"}],
    "float 3:8": [{"match": "*", "sparsity": "3:8"}],
    "int8 7:16 blocks": [{"match": "*", "bits": 8, "sparsity": "7:16", "block": 9}],
}
ROUNDED = {  # with rounded ones they round differently where a float is between two integers
    "int4 2:4": [{"match": "*", "bits": 4, "sparsity": "2:4", "activations": 8}],
    "int8": [{"match": "*", "bits": 8, "activations": 8}],
    "some": [
        {"match": "*.convolution.value", "bits": 8},
        {"match": "*.attention.query", "bits": 8},
        {"match": "*", "bits": 8, "activations": 8},
    ],
    "int4": [{"match": "*", "bits": 4, "activations": 8}],
    "int8 low blocks": [
        {"match": "*", "bits": 8, "symmetric": False, "block": 8, "activations": 8}
    ],
    "int2 low": [{"match": "*", "bits": 2, "symmetric": False, "activations": 8}],
    "int4 3:8 blocks": [
        {"match": "*", "bits": 4, "sparsity": "3:8", "block": 16, "activations": 8}
    ],
    "int4 2:4 low": [
        {"match": "*", "bits": 4, "sparsity": "2:4", "symmetric": False, "activations": 8}
    ],
}
SHAPES = {
    "plain": {},
    "wider": {"encoder": {"width": 40, "layers": 2, "heads": 2, "kernel": 7}, "subsampling": 20},
    "one wide head": {"encoder": {"width": 72, "layers": 1, "heads": 1, "kernel": 15}},
    "shared": {
        "encoder": {"width": 24, "layers": 4, "heads": 2, "kernel": 4},
        "sharing": {
            "blocks": 2,
            "tie": [["ffn1", "ffn2"], ["attention.query", "attention.key^T"]],
        },
    },
    "state spaces": {
        "encoder": {"family": "mhssm", "width": 24, "layers": 2, "heads": 2, "modes": 5},
    },
    "narrow heads": {
        "encoder": {
            "width": 24,
            "layers": 2,
            "heads": 3,
            "head_width": 6,
            "kernel": 4,
            "inner": [20, 70],
        },
    },
    "low rank": {
        "encoder": {"width": 24, "layers": 2, "heads": 2, "kernel": 4},
        "ranks": [
            {"match": "*attention*", "rank": 10, "share_factor": "u", "scale": True},
            {"match": "*ffn*", "rank": 18},
        ],
        "sharing": {"tie": [["convolution.value", "convolution.out^T"]]},
    },
}


MODELS = Path(__file__).parents[2] / "models"


def both(
    path: Path, audio: list[np.ndarray], chunk: int | None = None
) -> tuple[list[Transcript], list[Transcript]]:
    return (
        TorchRuntime(path, chunk=chunk).transcribe(audio, streaming=True),
        EngineRuntime(path, chunk=chunk).transcribe(audio),
    )


@pytest.mark.parametrize(("formats", "shape"), zip(EXACT, cycle(SHAPES), strict=False))
def test_it_is_pytorch_to_the_last_bits(
    formats: str, shape: str, utterances: list[np.ndarray], tmp_path: Path
) -> None:
    path = babbling(tmp_path / "m.pocket", formats=EXACT[formats], **SHAPES[shape])
    expected, found = both(path, utterances[:3])
    for one, other in zip(expected, found, strict=True):
        assert other == one and len(one.tokens) > 5
        assert other.scores == pytest.approx(one.scores, abs=2e-3, rel=2e-3)
    scores = [np.array([s for t in said for s in t.scores]) for said in (expected, found)]
    assert np.abs(scores[0] - scores[1]).mean() < 2e-4


@pytest.mark.parametrize(("formats", "shape"), zip(ROUNDED, cycle(SHAPES), strict=False))
def test_with_rounded_activations_it_is_near(
    formats: str, shape: str, utterances: list[np.ndarray], tmp_path: Path
) -> None:
    path = babbling(tmp_path / "m.pocket", formats=ROUNDED[formats], **SHAPES[shape])
    expected, found = both(path, utterances[:3])
    shared = []
    for said in zip(expected, found, strict=True):
        one, other = (set(zip(t.tokens, t.timestamps, strict=True)) for t in said)
        shared.append(len(one & other) / len(one | other))
    assert np.mean(shared) > 0.92


@pytest.mark.parametrize("chunk", [4, 8])
def test_a_transducer_writes_the_same(
    chunk: int, packed: Path, utterances: list[np.ndarray]
) -> None:
    long = np.concatenate(utterances * 2)
    expected, found = both(packed, [*utterances, long, long[:0], long[:1], long[:639]], chunk)
    assert found == expected and len(found[6].tokens) > 20
    assert found[6].scores == pytest.approx(expected[6].scores, abs=1e-3)


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("float16", "low rank"),
        ("int4 2:4", "wider"),
        ("int8 low blocks", "shared"),
        ("int2 low", "wider"),
        ("int8", "one wide head"),
    ],
)
def test_the_same_bits_everywhere(
    name: str, shape: str, float16: bool, utterances: list[np.ndarray], tmp_path: Path
) -> None:
    """On every instruction set and in every company: what the encoder gives, and what is said."""
    formats = {**EXACT, **ROUNDED}[name]
    path = babbling(tmp_path / "m.pocket", formats=formats, **SHAPES[shape])
    model = native.Model(path)
    found = set()
    for kernels in native.kernels():
        for streams in (1, 2, 6):
            engine = native.Engine(model, 0, streams, kernels, float16=float16)
            said = engine.transcribe(utterances)
            found.add((engine.stats().hash, repr(said)))
            assert engine.stats().kernels == kernels
    assert len(found) == 1 and "scalar" in native.kernels()


@pytest.mark.parametrize("shape", SHAPES)
def test_what_float16_remembers_is_near(
    shape: str, utterances: list[np.ndarray], tmp_path: Path
) -> None:
    """The same labels at the same frames but for few; scores as near as float16 is to a number."""
    model = native.Model(babbling(tmp_path / "m.pocket", formats=EXACT["int8"], **SHAPES[shape]))
    exact, near = (native.Engine(model, float16=float16) for float16 in (False, True))
    assert near.stats().stream_bytes < exact.stats().stream_bytes
    wanted, found = exact.transcribe(utterances), near.transcribe(utterances)
    pairs = [
        (a.score, b.score)
        for one, other in zip(wanted, found, strict=True)
        for a, b in zip(one, other, strict=False)
        if (a.unit, a.frame) == (b.unit, b.frame)
    ]
    assert len(pairs) > 0.97 * sum(map(len, wanted)) > 100
    apart = np.abs(np.diff(pairs))
    assert 0 < apart.mean() < 2e-3
    near.transcribe(utterances[::-1])  # what it heard before is forgotten
    assert near.transcribe(utterances) == found


def test_a_streams_memory(utterances: list[np.ndarray]) -> None:
    """docs/engine.md: what a stream of the shipped model takes, either way."""
    model = native.Model(MODELS / "usm_lite.pocket")
    for float16, most in ((False, 0.8e6), (True, 0.45e6)):
        assert native.Engine(model, float16=float16).stats().stream_bytes < most


def test_streams_come_and_go(packed: Path, utterances: list[np.ndarray]) -> None:
    """Joined late, starved, left early, reset: nobody hears the others."""
    model = native.Model(packed)
    wanted = native.Engine(model).transcribe(utterances)
    rng = np.random.default_rng(0)
    engine = native.Engine(model, streams=3)
    live: dict[int, list] = {}  # stream: utterance, samples heard, tokens
    done = 0
    while done < 25:
        if len(live) < 3 and rng.random() < 0.3:
            live[engine.open()] = [int(rng.integers(len(utterances))), 0, []]
        for stream, state in list(live.items()):
            index, at, said = state
            if rng.random() < 0.3:
                continue  # starves
            if rng.random() < 0.02:
                engine.reset(stream)
                state[1], state[2] = 0, []
            elif rng.random() < 0.02:
                engine.close(stream)
                del live[stream]
            elif at < len(utterances[index]):
                state[1] += engine.accept(stream, utterances[index][at : at + 1000])
                if state[1] == len(utterances[index]):
                    engine.finish(stream)
            else:
                result = engine.take(stream)
                said += result.tokens
                if result.finished:
                    assert said == wanted[index]
                    engine.close(stream)
                    del live[stream]
                    done += 1
        engine.step()


def test_labels_that_nobody_takes_are_waited_for(
    packed: Path, utterances: list[np.ndarray]
) -> None:
    long = np.concatenate(utterances * 4)
    model = native.Model(packed)
    [wanted] = native.Engine(model).transcribe([long])
    engine = native.Engine(model)
    stream, at, said = engine.open(), 0, []
    while True:
        taken = engine.accept(stream, long[at:])
        at += taken
        if not engine.step() and not taken:
            break  # full, and waiting
    assert at < len(long)
    while at < len(long):
        at += engine.accept(stream, long[at:])
        said += engine.take(stream).tokens
        engine.step()
    engine.finish(stream)
    while engine.step():
        said += engine.take(stream).tokens
    assert said == wanted


def test_what_fails_gives_its_streams_back(packed: Path, utterances: list[np.ndarray]) -> None:
    model = native.Model(packed)
    engine = native.Engine(model, streams=2)
    with pytest.raises(native.EngineError, match="no number"):
        engine.transcribe([utterances[0], np.full(500, np.nan, np.float32)])
    assert engine.transcribe(utterances[:3]) == native.Engine(model).transcribe(utterances[:3])
    streams = [engine.open(), engine.open()]
    with pytest.raises(native.EngineError, match="no free one"):
        engine.transcribe(utterances[:1])
    for stream in streams:
        engine.close(stream)
    assert engine.transcribe([]) == []


def test_what_a_stream_refuses(packed: Path) -> None:
    engine = native.Engine(native.Model(packed))
    stream = engine.open()
    with pytest.raises(native.EngineError, match="no free one"):
        engine.open()
    with pytest.raises(native.EngineError, match="no such stream"):
        engine.take(stream + 1)
    with pytest.raises(native.EngineError, match="no number"):
        engine.accept(stream, np.array([0.0, np.nan], np.float32))
    engine.finish(stream)
    with pytest.raises(native.EngineError, match="has ended"):
        engine.accept(stream, np.zeros(10, np.float32))
    engine.reset(stream)
    assert engine.accept(stream, np.zeros(10, np.float32)) == 10
    engine.close(stream)
    with pytest.raises(native.EngineError, match="no such stream"):
        engine.reset(stream)


def test_what_an_engine_refuses(packed: Path) -> None:
    model = native.Model(packed)
    with pytest.raises(native.EngineError, match="no chunks of 5 frames"):
        native.Engine(model, chunk=5)
    with pytest.raises(native.EngineError, match="no kernels 'mmx'"):
        native.Engine(model, kernels="mmx")
    with pytest.raises(native.EngineError, match="streams = -1"):
        native.Engine(model, streams=-1)


def test_its_frames_and_silence(packed: Path, utterances: list[np.ndarray]) -> None:
    """From which a caller tells an endpoint."""
    engine = native.Engine(native.Model(packed))
    stream = engine.open()
    samples = np.concatenate([*utterances[:1], np.zeros(32000, np.float32)])
    said, at = [], 0
    while at < len(samples):
        at += engine.accept(stream, samples[at:])
        while engine.step():
            result = engine.take(stream)
            said += result.tokens
    assert said and result.frames - 1 - said[-1].frame == result.silence > 25
    assert hypothesis(said).frames == sorted({t.frame for t in said})


def test_no_memory_is_a_reason(tmp_path: Path) -> None:
    """In a process that may have little: refused, not ended."""
    path = babbling(tmp_path / "m.pocket")
    program = f"""
import resource
import pocketscribe_engine as native
model = native.Model({str(path)!r})
resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))
for streams in (65536, 30000):
    try:
        native.Engine(model, streams=streams)
    except native.EngineError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.startswith("no memory") for line in done.stdout.splitlines()] == [True, True]
