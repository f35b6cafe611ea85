"""The talkative model, exported in every way once, and things to say to it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pocketscribe.decoding.searcher import DecodingConfig
from pocketscribe.decoding.streaming import Transcript
from pocketscribe.export.export import export
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.models.saved import Saved, load_model, save_model
from pocketscribe.speech.features import SAMPLE_RATE, read_audio
from talkative import characters, digits, tiny_model

MadeOnce = Callable[..., Path]


@pytest.fixture(scope="session")
def utterances() -> list[np.ndarray]:
    return digits()


@pytest.fixture(scope="session")
def speech(utterances: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Audio of different lengths."""
    joined = np.concatenate(utterances)
    return {
        "shorter than a chunk": utterances[0][4000:5600],
        "seconds": joined,
        "over 20 s": np.concatenate([joined, joined[::-1], joined]),
    }


@pytest.fixture(scope="session")
def model_path(talkative: Path) -> Path:
    return talkative


@pytest.fixture(scope="session")
def saved(model_path: Path) -> Saved:
    return load_model(model_path)


@pytest.fixture(scope="session")
def ctc() -> Saved:
    units = characters()
    return Saved(tiny_model("ctc", units, 0), units.to_json())


@pytest.fixture(scope="session")
def pytorch(model_path: Path, speech: dict[str, np.ndarray]) -> Callable[[str, int], Transcript]:
    """What PyTorch, streaming, hears in `speech[length]` with this beam."""

    @cache
    def transcript(length: str, beam: int) -> Transcript:
        search = DecodingConfig(beam=beam)
        [said] = TorchRuntime(model_path, search).transcribe([speech[length]], streaming=True)
        assert length == "shorter than a chunk" or len(set(said.tokens)) > 4
        return said

    return transcript


@pytest.fixture(scope="session")
def ctc_path(made_once: MadeOnce, ctc: Saved) -> Path:
    return made_once("ctc.safetensors", lambda path: save_model(path, ctc))


@pytest.fixture(scope="session")
def onnx_folder(made_once: MadeOnce, model_path: Path) -> Path:
    return made_once("onnx", lambda path: export(model_path, "onnx", path))


@pytest.fixture(scope="session")
def sherpa_folder(made_once: MadeOnce, model_path: Path) -> Path:
    return made_once("sherpa", lambda path: export(model_path, "sherpa-onnx", path))


@pytest.fixture(scope="session")
def int8_folder(made_once: MadeOnce, model_path: Path) -> Path:
    return made_once("int8", lambda path: export(model_path, "sherpa-onnx", path, int8=True))


@pytest.fixture(scope="session")
def ctc_folder(made_once: MadeOnce, ctc_path: Path) -> Path:
    return made_once("ctc", lambda path: export(ctc_path, "onnx", path, chunk=8))


@pytest.fixture(scope="session")
def real_speech(corpora: Path) -> np.ndarray:
    """Prompts read by a human, over 20 s."""
    files = sorted((corpora / "asterisk_allison" / "opus").glob("*.opus"))
    audio: list[np.ndarray] = []
    while sum(map(len, audio)) < 22 * SAMPLE_RATE:
        audio.append(read_audio(files[len(audio)]))
    return np.concatenate(audio)
