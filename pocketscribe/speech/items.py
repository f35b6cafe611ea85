"""An utterance: what was said, by whom, and how to hear it; and what makes one unfit.

One rule for all: what `prepare` leaves out of training, `evaluate` leaves out of a score.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from warnings import warn

import numpy as np

from pocketscribe.errors import UserError, UserHint
from pocketscribe.files import in_words
from pocketscribe.speech import text
from pocketscribe.speech.features import SAMPLE_RATE, audio_seconds, read_audio

MIN_SECONDS = 0.1
ALL = "all"  # the name of every split together


@dataclass(frozen=True)
class Item:
    """One utterance: in an audio file, or made of others when it is asked for.

    Attributes:
        made: gives the samples, float32 `[N]` at 16 kHz, where there is no file of their own.
        sources: the files that it is made of.
        columns: what else is known of it.
        textless: why it has no text, where it has none.
        seconds: how long it says it is, where there is no file of its own.
    """

    id: str
    text: str
    speaker: str
    audio: Path | None = None
    made: Callable[[], np.ndarray] | None = None
    sources: tuple[Path, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    textless: str = "empty transcript"
    seconds: float | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that its sound comes from."""
        return self.sources if self.audio is None else (self.audio,)

    def read(self) -> np.ndarray:
        """Float32 `[N]` at 16 kHz; raises whatever reading audio may raise."""
        if self.audio is not None:
            return read_audio(self.audio)
        assert self.made is not None
        return self.made()


class EmptyPartError(UserError):
    """A corpus is there, and nothing in it is of the split that was asked for."""


class RefusedError(Exception):
    """Why an item can be neither trained on nor scored."""


def words_of(item: Item) -> str:
    """The transcript in its plain spelling; raises RefusedError where it has none."""
    words = text.normalise(item.text)
    if not words:
        raise RefusedError(item.textless)
    if (character := text.unspellable(words)) is not None:
        raise RefusedError(f"the transcript holds {character!r}: spell it out")
    return words


def listen(item: Item, longest: float = math.inf) -> np.ndarray:
    """The samples, float32 `[N]` at 16 kHz; raises RefusedError where they are of no use.

    What a file says is longer than `longest` seconds is not decoded.
    """
    try:
        if item.audio is not None:
            _check_length(audio_seconds(item.audio), longest)
        elif item.seconds is not None:
            _check_length(item.seconds, longest)
        samples = item.read()
    except RefusedError:
        raise
    except Exception as error:  # a decoder may raise anything for a broken file
        raise RefusedError(str(error) or type(error).__name__) from None
    _check_length(len(samples) / SAMPLE_RATE, longest)
    if not samples.any():
        raise RefusedError("digital silence")
    return samples


def _check_length(seconds: float, longest: float) -> None:
    if not MIN_SECONDS <= seconds <= longest:
        allowed = f"{MIN_SECONDS} s" + (
            f" to {longest:.0f} s" if longest < math.inf else " or more"
        )
        raise RefusedError(f"{seconds:.2f} s long; allowed: {allowed}")


def unique(source: Iterable[Item], refused: list[tuple[str, str]]) -> Iterator[Item]:
    """Items with an id not seen before and a name that can be written; the others are listed."""
    seen: set[str] = set()
    for item in source:
        named = str(item.audio or item.id)
        if (told := in_words(named)) != named:
            refused.append((told, "its name is not UTF-8: rename the file"))
            continue
        if item.id in seen:
            refused.append((item.id, "duplicate id"))
            continue
        seen.add(item.id)
        yield item


def split_up(found: Sequence[Item], split: str, source: Path) -> Iterable[Item]:
    """The items of one split where the corpus names none: nobody is to be scored on what they said
    in training.

    A tenth of the speakers is dev and a tenth test; of the utterances, where there are fewer than
    ten speakers. Who they are hangs on the names alone.

    Raises:
        EmptyPartError: too few utterances to set some aside.
    """
    if split == ALL:
        return found
    speakers = {item.speaker for item in found if item.speaker}
    by_speaker = len(speakers) >= 10 and all(item.speaker for item in found)
    names = speakers if by_speaker else {item.id for item in found}
    ranked = sorted(names, key=lambda name: sha256(name.encode(errors="surrogatepass")).digest())
    tenth = len(ranked) // 10
    if tenth == 0:
        if split == "train":
            return found
        raise EmptyPartError(
            f"{source}: {len(found)} utterances, and no word on which are {split}: too few to set "
            f"some aside; name their split in a column, or ask for split {ALL!r}"
        )
    what = f"{len(ranked)} {'speakers' if by_speaker else 'utterances'}"
    warn(
        UserHint(
            f"{source}: nothing says which split an utterance is in: {tenth} of its {what} are "
            f"dev, {tenth} test, the others train; or ask for split {ALL!r}"
        ),
        stacklevel=2,
    )
    parts = {"test": ranked[:tenth], "dev": ranked[tenth : 2 * tenth], "train": ranked[2 * tenth :]}
    chosen = set(parts.get(split, ()))
    return [item for item in found if (item.speaker if by_speaker else item.id) in chosen]
