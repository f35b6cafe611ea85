"""Utterances as sound within a page."""

import base64
import io
from collections.abc import Collection
from pathlib import Path

import numpy as np
import soundfile

from pocketscribe.speech.corpora import CorpusConfig, items, locate
from pocketscribe.speech.features import SAMPLE_RATE
from pocketscribe.speech.items import RefusedError, listen


def data_uri(samples: np.ndarray) -> str:
    """Samples `[N]` at 16 kHz as Opus in Ogg, about 3 kB a second, for an `audio` element."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="OGG", subtype="OPUS")
    return "data:audio/ogg;base64," + base64.b64encode(file.getvalue()).decode()


def embedded(part: CorpusConfig, ids: Collection[str], root: Path | None) -> dict[str, str]:
    """The sound of utterances of a part, by id; what can no longer be heard is left out.

    Raises:
        UserError: the corpus is not on this machine.
    """
    found: dict[str, str] = {}
    for item in items(part, locate(part, root)):
        if item.id in ids and item.id not in found:  # of two with one id the first was scored
            try:
                found[item.id] = data_uri(listen(item))
            except RefusedError:
                continue
        if len(found) == len(ids):
            break
    return found
