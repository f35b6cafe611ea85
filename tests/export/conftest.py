"""A tiny model that nobody trained, yet speaks up at speech and is silent in silence, exported."""

from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketscribe.decoding.offline import decode
from pocketscribe.decoding.streaming import Transcript
from pocketscribe.export.export import export
from pocketscribe.export.open import TorchRuntime
from pocketscribe.models import ChunkConfig, ConformerConfig, ModelConfig, Recogniser
from pocketscribe.models.saved import Saved, save_model
from pocketscribe.speech.features import SAMPLE_RATE, fbank, read_audio
from pocketscribe.speech.synthetic import SyntheticSpeech
from pocketscribe.speech.units import Units, UnitsConfig

CHUNK = 4  # encoder frames: 160 ms

MadeOnce = Callable[..., Path]


@pytest.fixture(scope="session")
def utterances() -> list[np.ndarray]:
    """Spoken digits, 0.8 s to 3 s each."""
    return [u.samples for u in SyntheticSpeech(kind="digits", count=6, split="dev").utterances()]


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
def units() -> Units:
    words = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE"
    return Units.learn([words], UnitsConfig(kind="char"))


@pytest.fixture(scope="session")
def saved(utterances: list[np.ndarray], units: Units) -> Saved:
    """The first random transducer that emits many different labels at speech alone."""
    heard = torch.from_numpy(fbank(np.concatenate(utterances)))
    noise = np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE, np.float32)
    silences = [torch.from_numpy(fbank(loudness * noise)) for loudness in (0.0, 1e-3)]
    for seed in count(10):
        model = tiny_model("transducer", units, seed)
        model.mean.copy_(heard.mean(0))
        model.inverse_std.copy_(1 / heard.std(0))
        with torch.no_grad():  # decisions that are clear, and blank where nothing else is
            model.joiner.out.weight.stored.mul_(12)
            model.joiner.encoder.weight.stored.mul_(2)
            model.joiner.out.bias[0] = 8.0
        chunking = model.config.chunks.streaming
        said, *quiet = (decode(model, [x], chunking)[0].labels for x in (heard, *silences))
        if len(set(said)) > 6 and all(len(labels) < 3 for labels in quiet):
            return Saved(model, units.to_json(), {"recipe": "none"})
    raise AssertionError


@pytest.fixture(scope="session")
def ctc(units: Units) -> Saved:
    return Saved(tiny_model("ctc", units, 0), units.to_json())


def tiny_model(head: str, units: Units, seed: int) -> Recogniser:
    torch.manual_seed(seed)
    config = ModelConfig(
        encoder=ConformerConfig(width=16, layers=1, heads=2, kernel=4),
        head=head,
        chunks=ChunkConfig(sizes=("full", CHUNK, 8), left=8),
        predictor=16,
        joiner=16,
        subsampling=8,
    )
    model = Recogniser(config, len(units)).eval()
    block = model.encoder.blocks[0]  # two layers with one weight: to be stored once
    block.ffn2.up.weight.stored.data.copy_(block.ffn1.up.weight.stored)
    return model


@pytest.fixture(scope="session")
def model_path(made_once: MadeOnce, saved: Saved) -> Path:
    return made_once("tiny.safetensors", lambda path: save_model(path, saved))


@pytest.fixture(scope="session")
def pytorch(model_path: Path, speech: dict[str, np.ndarray]) -> Callable[[str, int], Transcript]:
    """What PyTorch, streaming, hears in `speech[length]` with this beam."""

    @cache
    def transcript(length: str, beam: int) -> Transcript:
        [said] = TorchRuntime(model_path, beam).transcribe([speech[length]], streaming=True)
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
