"""Models for the engine, made once, and things to say to them."""

from collections.abc import Callable
from ctypes import CDLL
from pathlib import Path

import numpy as np
import pytest
import soundfile

import kernels
from pocketscribe.decoding.searcher import DecodingConfig
from pocketscribe.export.engine_runtime import EngineRuntime
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.models import Recogniser
from pocketscribe.models.saved import Saved, load_model, save_packed
from talkative import digits
from talkative import talkative as talkative_model

MadeOnce = Callable[..., Path]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def operators(made_once: MadeOnce) -> CDLL:
    """Every kernel as a plain function."""
    if kernels.COMPILER is None:
        pytest.skip("no C++ compiler here for the kernels")
    return kernels.opened(made_once("operators.so", kernels.compiled))


@pytest.fixture(scope="session")
def utterances() -> list[np.ndarray]:
    return digits()


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """A child's sentence of speechocean762."""
    return soundfile.read(ROOT / "web" / "example.flac", dtype="float32")[0]


@pytest.fixture(scope="session")
def unsure(made_once: MadeOnce) -> Path:
    """A transducer whose hypotheses are close together, with float activations."""

    def make(path: Path) -> None:
        saved = talkative_model()
        out = saved.model.joiner.out
        out.weight.stored.data.div_(3)
        out.bias.data[0] -= 5  # of blank
        save_packed(path, saved)

    return made_once("unsure.pocket", make)


@pytest.fixture(scope="session")
def lite(made_once: MadeOnce) -> Path:
    """models/usm_lite.pocket, but for its rounded activations: both encoders give the same."""

    def make(path: Path) -> None:
        shipped = load_model(ROOT / "models" / "usm_lite.pocket")
        old, config = shipped.model, shipped.model.config
        formats = tuple(rule.model_copy(update={"activations": None}) for rule in config.formats)
        model = Recogniser(config.model_copy(update={"formats": formats}), old.vocabulary)
        model.load_state_dict(old.state_dict(), strict=False)
        for key, weight in old.weights.stored.items():
            model.weights.stored[key].parts = weight.parts
        save_packed(path, Saved(model.eval(), shipped.units, shipped.card))

    return made_once("lite.pocket", make)


@pytest.fixture(scope="session")
def the_same() -> Callable[[Path, DecodingConfig, np.ndarray], str]:
    """What PyTorch and the engine write, which is the same."""

    def said(path: Path, search: DecodingConfig, samples: np.ndarray) -> str:
        [expected] = TorchRuntime(path, search).transcribe([samples], streaming=True)
        [found] = EngineRuntime(path, search).transcribe([samples])
        assert found == expected and len(found.tokens) > 5
        assert found.scores == pytest.approx(expected.scores, abs=1e-3)
        return found.text

    return said
