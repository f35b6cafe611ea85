"""Python in three lines: what a library user is given."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import pocketscribe
from pocketscribe.api import Model
from pocketscribe.decoding.streaming import LiveStream
from pocketscribe.errors import UserError
from pocketscribe.speech.features import resampled
from talkative import digits
from tiny import environment

MEMORY = """
import sys, pocketscribe, soundfile
from pathlib import Path
from pocketscribe.evaluation.evaluate import peak_rss_bytes

model, folder, offline = pocketscribe.load(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "offline"
speech, rate = soundfile.read(folder / "speech.wav", dtype="float32")
seen = []
for minutes in (1.5, 6):
    with soundfile.SoundFile(folder / "long.flac", "w", rate, 1) as file:
        for _ in range(round(minutes * 60 * rate / len(speech))):
            file.write(speech)
    if offline:
        samples, _ = soundfile.read(folder / "long.flac", dtype="float32")
        [said] = model.runtime.transcribe([samples], streaming=False)
    else:
        said = model.transcribe(folder / "long.flac")
    assert len(said.tokens) > 50 * minutes
    seen.append(peak_rss_bytes() / 1e6)
print(seen[1] - seen[0])
"""


@pytest.fixture(scope="module")
def model(talkative: Path) -> Model:
    return pocketscribe.load(talkative)


@pytest.fixture
def speech() -> np.ndarray:
    return np.concatenate(digits()[:2])


def test_a_path_an_array_or_a_list(model: Model, speech: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, speech, 16000, subtype="FLOAT")
    said = model.transcribe(path)
    assert len(said.words) > 1 and said.text
    assert model.transcribe(str(path)) == said
    assert model.transcribe(speech) == said
    assert model.transcribe(np.stack([1.5 * speech, 0.5 * speech], axis=1)) == said
    assert model.transcribe([path, speech]) == [said, said]
    assert model.transcribe(speech[::2], 8000) == model.transcribe(resampled(speech[::2], 8000))
    assert model.card["recipe"] == "none"


def test_full_context_hears_whole_files(talkative: Path, model: Model, speech: np.ndarray) -> None:
    full = pocketscribe.load(talkative, chunk="full")
    said = full.transcribe(speech)
    assert said.tokens and said == full.runtime.transcribe([speech], streaming=False)[0]
    with pytest.raises(UserError, match="nor hear more than 120 s at once"):
        full.transcribe(np.zeros(121 * 16000, np.float32))


def test_streaming(model: Model, speech: np.ndarray) -> None:
    stream = model.stream()
    assert isinstance(stream, LiveStream)
    stream.accept(speech[:30_000])
    first = stream.transcript().text
    stream.accept(speech[30_000:])
    said = stream.finish()
    assert first and said == model.transcribe(speech) and said.text.startswith(first)


def test_offline_long_audio_is_streamed_to_the_same_text(
    model: Model, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = model.runtime
    whole, short = runtime.transcribe([speech, speech[:9000]], streaming=False)
    monkeypatch.setattr("pocketscribe.export.torch_runtime.LONG_SECONDS", 1)
    assert runtime.transcribe([speech, speech[:9000]], streaming=False) == [whole, short]


@pytest.mark.parametrize("how", ["streaming", "offline"])
def test_an_hour_takes_the_memory_of_a_minute(
    talkative: Path, speech: np.ndarray, tmp_path: Path, how: str
) -> None:
    soundfile.write(tmp_path / "speech.wav", speech, 16000)
    ended = subprocess.run(
        [sys.executable, "-c", MEMORY, talkative, tmp_path, how],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    # MB that four more minutes took; their samples alone are 17 where the caller holds them,
    # and were 230 as a list of Python's numbers. A mask of all frames would be 225 a head.
    assert float(ended.stdout) < (15 if how == "streaming" else 15 + 3 * 17)


def test_importing_is_quick() -> None:
    code = "import pocketscribe, sys; print({'torch', 'lhotse', 'numpy'} & set(sys.modules))"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert ended.stdout == "set()\n"


def test_a_missing_model_is_one_line() -> None:
    with pytest.raises(UserError, match="no such model"):
        pocketscribe.load("nowhere.safetensors")


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_no_audio_is_refused(model: Model, speech: np.ndarray, wrapped: bool) -> None:
    accept = model.stream().accept if wrapped else model.transcribe
    broken = speech.copy()
    broken[5] = np.nan
    for samples, line in (
        ((32767 * speech).astype(np.int16), "audio of int16: give floats"),
        (np.stack([speech, speech]), "give samples .N., or .N, channels."),
        (speech.reshape(1, 1, -1), "audio of shape"),
        (broken, "not finite"),
    ):
        with pytest.raises(UserError, match=line):
            accept(samples)


def test_rates_are_refused(model: Model, speech: np.ndarray) -> None:
    for rate in (0, -1, 10**9):
        with pytest.raises(UserError, match=f"audio of {rate} samples a second"):
            model.transcribe(speech, rate)


def test_other_things_than_audio_are_refused(talkative: Path) -> None:
    """In a process of its own, where no test checks types."""
    code = """
import sys, pocketscribe
model = pocketscribe.load(sys.argv[1], engine=False)
for other in (None, b"abc", (0.0, 0.1)):
    try:
        model.transcribe(other)
    except pocketscribe.errors.UserError as error:
        print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, talkative],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    kinds = ("NoneType", "bytes", "tuple")
    assert ended.stdout.splitlines() == [
        f"audio of {kind}: give a path, a file or an array" for kind in kinds
    ]


def test_how_it_searches(talkative: Path, model: Model, speech: np.ndarray) -> None:
    word = model.transcribe(speech).words[0].word
    likes = pocketscribe.load(talkative, hotwords=word, hotword_score=9.0)
    assert likes.transcribe(speech).text.split().count(word) > 1
    with pytest.raises(UserError, match="lm_scale belongs to a language model"):
        pocketscribe.load(talkative, lm_scale=0.3)
