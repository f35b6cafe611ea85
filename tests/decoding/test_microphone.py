"""Captions: text while it is said, a line when the speaker pauses."""

import io
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.live import Live

from pocketscribe.decoding.microphone import PAUSE_SECONDS, caption, listen
from pocketscribe.decoding.streaming import Transcript
from pocketscribe.errors import UserError

BLOCK = 8000  # half a second


class Script:
    """A live stream that hears a word whenever a block is not silent."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)
        self.said: list[str] = []
        self.resets = 0

    def reset(self) -> None:
        self.said, self.resets = [], self.resets + 1

    def accept(self, samples: np.ndarray) -> None:
        if samples.any():
            self.said.append(self.words.pop(0))

    def transcript(self) -> Transcript:
        return Transcript(" ".join(self.said), [], [])

    def finish(self) -> Transcript:
        return Transcript(" ".join([*self.said, "END"]), [], [])


class Screen(Live):
    """Remembers what it was told to show, and what stands above it."""

    def __init__(self) -> None:
        self.paper = io.StringIO()
        super().__init__(console=Console(file=self.paper, width=80), auto_refresh=False)
        self.shown: list[str] = []

    def update(self, renderable: Any, *, refresh: bool = False) -> None:
        assert refresh
        self.shown.append(renderable.plain)

    @property
    def lines(self) -> list[str]:
        return self.paper.getvalue().splitlines()


def blocks(pattern: str) -> list[np.ndarray]:
    """A letter is half a second: x speech, . silence."""
    return [np.full(BLOCK, float(c == "x"), np.float32) for c in pattern]


def test_text_is_shown_while_it_is_said() -> None:
    stream, screen = Script("ONE", "TWO", "THREE"), Screen()
    caption(stream, blocks("..x.x.x."), screen)
    assert screen.shown == ["ONE", "ONE TWO", "ONE TWO THREE"]
    assert screen.lines == [] and stream.resets == 0


def test_a_pause_ends_a_line() -> None:
    assert PAUSE_SECONDS == 1.5
    stream, screen = Script("ONE", "TWO", "THREE"), Screen()
    caption(stream, blocks("x...x....x"), screen)
    # Three silent blocks are no more than the pause; the fourth is.
    assert screen.lines == ["ONE TWO END"]
    assert stream.resets == 1
    assert screen.shown == ["ONE", "ONE TWO", "", "THREE"]  # nothing stands there twice


def test_silence_alone_prints_nothing() -> None:
    stream, screen = Script(), Screen()
    caption(stream, blocks("." * 20), screen)
    assert screen.shown == [] and screen.lines == [] and stream.resets == 0


def test_brackets_in_text_are_text() -> None:
    screen = Screen()
    caption(Script("[bold]X[/bold]"), blocks("x...."), screen)
    assert screen.lines == ["[bold]X[/bold] END"]


def test_no_library_for_microphones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match=r"pip install 'pocketscribe\[microphone\]'"):
        listen(Script())


class PortAudioError(Exception):
    pass


def test_no_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(**_: Any) -> None:
        raise PortAudioError("no default input device")

    library = SimpleNamespace(InputStream=nothing, PortAudioError=PortAudioError)
    monkeypatch.setitem(sys.modules, "sounddevice", library)
    with pytest.raises(UserError, match=r"no usable microphone \(no default input device\)"):
        listen(Script())


def test_what_the_microphone_brings_reaches_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks, then Ctrl-C: the device is let go."""
    events: list[Any] = []

    class InputStream:
        def __init__(self, **options: Any) -> None:
            assert options["samplerate"] == 16000 and options["channels"] == 1
            self.callback = options["callback"]

        def start(self) -> None:
            buffer = np.empty((4, 1), np.float32)  # the library writes into it again and again
            for value in (0.25, 0.5, 0.75):
                buffer[:] = value
                self.callback(buffer, 4, None, None)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            events.append("closed")

    class Impatient(Script):
        def accept(self, samples: np.ndarray) -> None:
            assert samples.shape == (4,)
            if samples[0] == 0.75:
                raise KeyboardInterrupt
            events.append(float(samples[0]))

    library = SimpleNamespace(InputStream=InputStream, PortAudioError=PortAudioError)
    monkeypatch.setitem(sys.modules, "sounddevice", library)
    with pytest.raises(KeyboardInterrupt):
        listen(Impatient())
    assert events == [0.25, 0.5, "closed"]
