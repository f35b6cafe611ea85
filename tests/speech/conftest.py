"""What the tests of this room share."""

from pathlib import Path

import numpy as np
import pytest

from pocketscribe.speech.synthesis import Voice, synthesise
from small_corpora import MakeCorpus, write_corpus


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """`make(rows)` -> a folder as `write_corpus` makes it."""
    return lambda rows, name="mine": write_corpus(tmp_path / name, rows)


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """Something like a voice, 16 kHz."""
    voice = Voice("espeak", "en-us", "m1")
    return synthesise(voice, "please bring seven yellow chairs to the house by the river")
