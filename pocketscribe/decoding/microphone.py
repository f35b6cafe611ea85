"""Live captions from the microphone."""

import queue
from collections.abc import Iterable
from itertools import count

import numpy as np
from rich.live import Live
from rich.text import Text

from pocketscribe.decoding.streaming import LiveStream
from pocketscribe.errors import UserError
from pocketscribe.speech.features import SAMPLE_RATE

PAUSE_SECONDS = 1.5  # without a new word: the line is finished


def listen(stream: LiveStream) -> None:
    """Shows what is said while it is said, a line an utterance, until Ctrl-C.

    Raises:
        UserError: there is no microphone, or no library to read it with.
    """
    try:
        import sounddevice
    except (ImportError, OSError):
        raise UserError(
            "--microphone needs PortAudio and sounddevice; pip install 'pocketscribe[microphone]'"
        ) from None
    heard: queue.Queue[np.ndarray] = queue.Queue()
    try:
        source = sounddevice.InputStream(
            samplerate=SAMPLE_RATE,
            channels=1,
            dtype="float32",
            callback=lambda samples, *_: heard.put(samples[:, 0].copy()),
        )
        source.start()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise UserError(f"--microphone: no usable microphone ({error})") from None
    with source, Live(Text("listening …"), auto_refresh=False) as live:
        caption(stream, (heard.get() for _ in count()), live)


def caption(stream: LiveStream, audio: Iterable[np.ndarray], live: Live) -> None:
    """Feeds blocks of samples to the stream and shows its text; a pause ends a line."""
    text, quiet = "", 0.0
    for samples in audio:
        stream.accept(samples)
        quiet += len(samples) / SAMPLE_RATE
        if (now := stream.transcript().text) != text:
            text, quiet = now, 0.0
            live.update(Text(text), refresh=True)
        elif text and quiet > PAUSE_SECONDS:
            text = ""
            live.update(Text(text), refresh=True)
            live.console.print(Text(stream.finish().text))
            stream.reset()
