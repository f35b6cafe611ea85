"""Word errors on prepared dev speech: what training and searching choose by, again and again."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from pocketscribe.decoding.offline import decode
from pocketscribe.evaluation.wer import Scored, WordErrorRate, score, word_error_rate
from pocketscribe.models import Recogniser
from pocketscribe.speech.units import Units

BATCH_FRAMES = 20_000  # of features at once, padding included


class Heard(NamedTuple):
    """An utterance of dev speech; its features end with silence, as in decoding."""

    id: str
    features: Float[Tensor, "T F"]
    text: str
    speaker: str
    part: int = 0  # of dev: of which of its corpora


def dev_errors(model: Recogniser, dev: Sequence[Heard], units: Units) -> WordErrorRate:
    """Greedy word errors under the streaming chunking."""
    scored: list[Scored] = []
    parts: list[int] = []
    ordered = sorted(dev, key=lambda heard: len(heard.features))
    while ordered:
        count = max(1, BATCH_FRAMES // max(len(ordered[-1].features), 1))
        batch, ordered = ordered[-count:], ordered[:-count]
        features = [heard.features for heard in batch]
        found = decode(model, features, model.config.chunks.streaming)
        for heard, said in zip(batch, found, strict=True):
            text = units.decode(said.labels)
            scored.append(score(heard.id, heard.speaker, heard.text, text))
            parts.append(heard.part)
    return word_error_rate(scored, parts=parts)
