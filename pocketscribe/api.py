"""A recogniser in Python: `pocketscribe.load("model.safetensors").transcribe("a.wav").text`."""

from collections.abc import Callable, Iterable
from io import IOBase
from pathlib import Path
from typing import Any, overload

import numpy as np

from pocketscribe.decoding.streaming import LiveStream, Transcript, hear
from pocketscribe.errors import UserError
from pocketscribe.evaluation.runtime import Runtime
from pocketscribe.speech.features import SAMPLE_RATE, audio_blocks, waveform

Audio = str | Path | IOBase | np.ndarray


class Model:
    """A recogniser that was opened by `pocketscribe.load`."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    @property
    def card(self) -> dict[str, Any]:
        """What it was trained on, and how well it does."""
        return self.runtime.card

    @overload
    def transcribe(
        self, audio: Audio, rate: int = ..., *, show: Callable[[str], object] | None = ...
    ) -> Transcript: ...

    @overload
    def transcribe(
        self, audio: list[Audio], rate: int = ..., *, show: Callable[[str], object] | None = ...
    ) -> list[Transcript]: ...

    def transcribe(
        self,
        audio: Audio | list[Audio],
        rate: int = SAMPLE_RATE,
        *,
        show: Callable[[str], object] | None = None,
    ) -> Transcript | list[Transcript]:
        """What is said in a file (any format, rate, channels, length), in samples, or in a list.

        Args:
            audio: a path, an open file, or an array `[N]` or `[N, channels]` in [-1, 1].
            rate: an array's samples a second; a file knows its own.
            show: is told the text a few times a second while it grows.

        Raises:
            UserError: a file is missing or is no audio, or an array is none.
        """
        if isinstance(audio, list):
            return [self.transcribe(one, rate, show=show) for one in audio]
        blocks: Iterable[np.ndarray]
        if not isinstance(audio, Audio):
            raise UserError(f"audio of {type(audio).__name__}: give a path, a file or an array")
        if isinstance(audio, np.ndarray):
            samples = waveform(audio, rate)
            blocks = np.split(samples, range(SAMPLE_RATE, len(samples), SAMPLE_RATE))
        else:
            blocks = audio_blocks(Path(audio) if isinstance(audio, str) else audio)
        if self.runtime.chunk is None:
            [said] = self.runtime.transcribe([np.concatenate(list(blocks))], streaming=False)
            return said
        return hear(self.runtime.stream(), blocks, show)

    def stream(self) -> LiveStream:
        """A live utterance: `accept` samples at 16 kHz, read `transcript`, `finish` at its end.

        Raises:
            UserError: the model hears with full context.
        """
        return self.runtime.stream()
