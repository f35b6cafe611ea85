"""Fixtures that several rooms' tests share."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The real corpora; tests that need them are skipped where they are not."""
    root = os.environ.get("POCKETSCRIBE_CORPORA")
    if not root or not (Path(root) / "speechocean762").is_dir():
        pytest.skip("set POCKETSCRIBE_CORPORA to run the tests on real speech")
    return Path(root)
