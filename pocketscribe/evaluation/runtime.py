"""What scoring and transcribing ask of a recogniser, wherever it runs."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pocketscribe.decoding.streaming import LiveStream, Transcript
from pocketscribe.speech.units import Units


@runtime_checkable
class Runtime(Protocol):
    """A recogniser that was opened from a run, a checkpoint or an exported artefact."""

    units: Units  # of text, that it writes
    bytes: int  # of the files that hold it
    parameters_stored: int  # numbers in those files
    parameters_virtual: int  # numbers multiplied by, a shared tensor counted at each use
    always_streams: bool  # it has no other way, whatever it is asked for
    chunk: int | None  # encoder frames (40 ms) that it hears at once; None: all, it cannot stream
    card: dict[str, Any]  # what the model was trained on, and how well it does

    def transcribe(self, audio: Sequence[np.ndarray], streaming: bool) -> list[Transcript]:
        """Utterances of 16 kHz samples -> their transcripts."""

    def stream(self) -> LiveStream:
        """A live utterance of its own, for audio that comes in pieces."""
