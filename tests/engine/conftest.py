"""Models for the engine, made once, and things to say to them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pocketscribe.models.saved import load_model, save_packed
from talkative import digits

MadeOnce = Callable[..., Path]


@pytest.fixture(scope="session")
def utterances() -> list[np.ndarray]:
    return digits()


@pytest.fixture(scope="session")
def packed(talkative: Path, made_once: MadeOnce) -> Path:
    """The talkative transducer as a `.pocket` file."""
    return made_once("talkative.pocket", lambda path: save_packed(path, load_model(talkative)))
