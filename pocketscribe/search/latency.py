"""How long one thread of this machine computes on a chunk: in the engine, as a device would."""

import tempfile
import time
from pathlib import Path

import numpy as np

from pocketscribe.errors import needs_engine
from pocketscribe.models.saved import Saved, save_packed
from pocketscribe.speech.features import SAMPLE_RATE

SECONDS, REPEATS = 6.4, 5  # of noise, which takes as long as speech does
FRAME_MS = 40  # of an encoder


def chunk_milliseconds(saved: Saved) -> float:
    """Of the model's packed file, in chunks as it streams by default; the best of some runs.

    Raises:
        UserError: the engine is not installed, or the model cannot stream.
    """
    with needs_engine():
        from pocketscribe.export.engine_runtime import EngineRuntime
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pocket"
        save_packed(path, saved)
        runtime = EngineRuntime(path)
        count = round(SECONDS * SAMPLE_RATE)
        audio = np.random.default_rng(0).normal(0, 0.1, count).astype(np.float32)
        taken = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            runtime.transcribe([audio])
            taken.append(time.perf_counter() - started)
    return round(min(taken) / SECONDS * FRAME_MS * (runtime.chunk or 1), 4)
