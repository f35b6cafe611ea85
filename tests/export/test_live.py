"""Every runtime listens live: audio in pieces gives what the whole gives."""

from pathlib import Path

import numpy as np
import pytest

from pocketscribe.decoding.streaming import LiveStream, Transcript
from pocketscribe.errors import UserError
from pocketscribe.evaluation.runtime import Runtime
from pocketscribe.export.open import open_model


@pytest.fixture(params=["model_path", "onnx_folder", "sherpa_folder", "packed"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """The native engine, which reads packed files alone, among them."""
    return open_model(request.getfixturevalue(request.param), engine=request.param == "packed")


def test_a_live_stream_in_pieces(runtime: Runtime, speech: dict[str, np.ndarray]) -> None:
    assert isinstance(runtime, Runtime)
    samples = speech["seconds"]
    [expected] = runtime.transcribe([samples], streaming=True)
    stream = runtime.stream()
    assert isinstance(stream, LiveStream)
    stream.accept(samples[::-1])
    stream.finish()
    stream.reset()  # a reset stream is a new one
    seen = [stream.transcript()]
    for block in np.array_split(samples, 37):
        stream.accept(block)
        seen.append(stream.transcript())
    assert seen[0] == Transcript("", [], []) and len({t.text for t in seen}) > 6
    assert stream.finish() == expected


@pytest.mark.parametrize("count", [0, 1, 100, 160, 639])
def test_hardly_any_audio_is_no_obstacle(count: int, runtime: Runtime, model_path: Path) -> None:
    samples = np.zeros(count, np.float32)
    [expected] = open_model(model_path).transcribe([samples], streaming=True)
    assert runtime.transcribe([samples], True) == [expected]


def test_full_context_cannot_listen(model_path: Path) -> None:
    runtime = open_model(model_path, chunk="full")
    with pytest.raises(UserError, match="full context can neither stream nor hear more than 120"):
        runtime.stream()
