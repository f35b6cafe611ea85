"""What scoring and transcribing ask of a recogniser, wherever it runs."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pocketscribe.decoding.streaming import Transcript


class Runtime(Protocol):
    """A recogniser that was opened from a run, a checkpoint or an exported artefact."""

    bytes: int  # of the files that hold it
    parameters_stored: int | None  # numbers in those files; None where a format does not tell
    parameters_virtual: int | None  # numbers multiplied by, a shared tensor counted at each use

    def transcribe(self, audio: Sequence[np.ndarray], streaming: bool) -> list[Transcript]:
        """Utterances of 16 kHz samples -> their transcripts."""
