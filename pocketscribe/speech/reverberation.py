"""Speech as it sounds in rooms: an utterance convolved with a recorded room response."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np

from pocketscribe.speech.features import read_audio
from pocketscribe.speech.items import Item


def in_a_room(item: Item, responses: Sequence[Path]) -> Item:
    """The same utterance in one of the rooms; which, hangs on its id."""
    name = item.id.encode(errors="surrogatepass")
    response = responses[int.from_bytes(sha256(name).digest()[:8]) % len(responses)]
    made = partial(_reverberated, item, response)
    return replace(item, audio=None, made=made, sources=(*item.files, response))


def _reverberated(item: Item, response: Path) -> np.ndarray:
    """As long, as early and, as far as peaks allow, as loud as the dry one: float32 `[N]`."""
    from scipy.signal import fftconvolve  # here: a second of import

    dry, room = item.read(), read_audio(response)
    direct = int(np.abs(room).argmax())  # the direct sound comes first and loudest
    wet = fftconvolve(dry, room)[direct:][: len(dry)].astype(np.float32)
    wet *= np.sqrt(np.mean(dry**2) / max(np.mean(wet**2), 1e-20))
    return wet / max(1.0, float(np.abs(wet).max()))
