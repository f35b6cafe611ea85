"""The `synthetic` corpus: spoken digits and short sentences, made on the spot, no download.

For quick starts and tests. A word error rate measured on it says nothing of real speech.
"""

from __future__ import annotations

import random
import re
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from pocketscribe.errors import UserError
from pocketscribe.speech.features import SAMPLE_RATE
from pocketscribe.speech.held_out import HeldOut
from pocketscribe.speech.synthesis import Voice, engine, synthesise
from pocketscribe.speech.text import read_sentences

KINDS: Final = ("digits", "sentences")
SPLITS: Final = ("train", "dev", "test")

# Who speaks in which split. No accent and no variant is in two splits. Left out of espeak's own
# list: whispers, croaks and robots, near copies of another variant, variants that clip, and what
# depends on what the engine said before (the Klatt voices; the Scottish accent's rolled r).
_ESPEAK_ACCENTS: Final[dict[str, str]] = {
    "train": "en en-us en-gb-x-gbcwmd en-029",
    "dev": "en-gb-x-gbclan",
    "test": "en-gb-x-rp en-us-nyc",
}
_ESPEAK_HIGH: Final[dict[str, str]] = {
    "train": "f1 f2 f4 Alicia Andrea Annie aunty belinda linda shelby Nguyen",
    "dev": "f3 grandma",
    "test": "f5 anika steph",
}
_ESPEAK_LOW: Final[dict[str, str]] = {
    "train": "m1 m2 m4 m6 m8 Alex Andy Denis Diogo Gene Henrique Hugo Lee Mario Michael Storm "
    "boris ed gustave iven3 marcelo max michel norbert pablo paul pedro quincy",
    "dev": "m3 m5 miguel rob travis",
    "test": "m7 Mike john kaukovalta robert sandro victor",
}
_HIGH_PITCHES: Final[tuple[float, ...]] = (0.9, 1.15, 1.45)  # the last is a child's
_LOW_PITCHES: Final[tuple[float, ...]] = (0.85, 1.1)
_FLITE: Final[dict[str, dict[str, tuple[float, ...]]]] = {  # variant: pitches
    "train": {"slt": (0.85, 1.0, 1.2, 1.45), "kal16": (0.9, 1.1, 1.35)},
    "dev": {"rms": (1.0,)},
    "test": {"awb": (0.85, 1.0, 1.2)},
}

_PUNCTUATION: Final = str.maketrans(dict.fromkeys('.,;:!?"“”()[]-–—…', " "))

_DIGITS: Final = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE"

_TEMPLATES: Final = """
the {adjective} {thing} is {where} the {place}
the {adjective} {animal} {moved} {where} the {place}
my {person} {did} the {adjective} {thing} {when}
did your {person} {do} the {thing} {when}
{please} {do} the {thing} {where} the {place}
{please} {do} {number} {adjective} {things} {when}
we saw {number} {animal}s {where} the {place}
there are {number} {things} {where} the {adjective} {place}
{pronoun} {cannot} {do} the {thing} {when}
{pronoun} will {do} the {adjective} {thing} {when}
it's {quality} {when}
i think it's {quality} {where} the {place}
what did the {person} {do} {when}
where is my {adjective} {thing}
why is the {animal} {where} the {place}
set a timer for {number} minutes
call my {person} {when}
turn {onoff} the {device} {where} the {place}
how is the weather {where} the {place} {when}
the {person} and the {person} {moved} {how} {where} the {place}
{day} was {quality} and {day} will be {quality}
""".strip().splitlines()

_SLOTS: Final = {  # "_" stands for a space within one choice
    "adjective": "old new red blue green yellow white black big small heavy light broken clean "
    "dirty warm cold wet dry soft hard long short round quiet loud strange simple empty full "
    "golden silver wooden cheap little famous",
    "thing": "book table chair window door bottle letter picture clock basket box bag coat hat "
    "key knife lamp map mirror pencil plate ring rope shirt shoe spoon ticket umbrella cup "
    "blanket camera candle carpet drum guitar hammer ladder piano newspaper wheel",
    "things": "books tables chairs windows doors bottles letters pictures boxes bags coats hats "
    "keys lamps maps mirrors pencils plates rings shirts shoes spoons tickets cups candles drums "
    "apples oranges eggs flowers",
    "animal": "cat dog horse cow bird chicken duck rabbit lion tiger monkey bear elephant turtle "
    "frog spider goat pig snake whale",
    "person": "mother father sister brother uncle aunt cousin teacher doctor farmer driver "
    "neighbour friend captain student baker singer painter daughter son grandmother lawyer "
    "soldier child",
    "place": "house garden kitchen river forest school market station bridge street office church "
    "hospital mountain village castle harbour island library museum airport bedroom beach farm "
    "field hotel theatre valley",
    "where": "in near behind beside by outside inside in_front_of next_to close_to not_far_from",
    "moved": "ran walked slept waited stood danced jumped played sat worked sang laughed stopped "
    "rested",
    "how": "slowly quickly quietly together happily alone again badly",
    "do": "find bring buy carry clean count draw fix hold keep leave lose move open pack paint "
    "remember return sell send show take touch use wash watch want",
    "did": "found brought bought carried cleaned counted drew fixed held kept left lost moved "
    "opened packed painted remembered returned sold sent showed took touched used washed watched "
    "wanted",
    "when": "today tonight tomorrow yesterday now again this_morning this_evening every_day "
    "after_lunch before_dinner at_noon at_night last_week next_month in_the_summer on_monday "
    "on_friday in_january at_seven_o'clock",
    "number": "one two three four five six seven eight nine ten eleven twelve fifteen twenty "
    "thirty forty_two sixty ninety a_hundred a_thousand many a_few",
    "please": "please could_you can_you don't let's you_should remember_to try_to",
    "pronoun": "i you we they",
    "cannot": "can't won't don't didn't must_not should_not could might",
    "quality": "good bad raining too_late very_early beautiful dangerous difficult easy expensive "
    "important impossible interesting very_cold much_better so_funny quite_dark",
    "onoff": "on off",
    "device": "lights radio television heater music computer fan oven alarm telephone",
    "day": "monday tuesday wednesday thursday friday saturday sunday",
}
_CHOICES: Final = {slot: words.split() for slot, words in _SLOTS.items()}


@cache
def voices(split: str, engines: tuple[str, ...] = ("espeak",)) -> tuple[Voice, ...]:
    """Every voice of a split. Two splits have no variant and no espeak accent in common."""
    found: list[Voice] = []
    if "espeak" in engines:
        for accent in _ESPEAK_ACCENTS[split].split():
            for names, pitches in ((_ESPEAK_HIGH, _HIGH_PITCHES), (_ESPEAK_LOW, _LOW_PITCHES)):
                for variant in names[split].split():
                    found += [Voice("espeak", accent, variant, pitch=pitch) for pitch in pitches]
    if "flite" in engines:
        for variant, pitches in _FLITE[split].items():
            accent = "scottish" if variant == "awb" else "american"
            found += [Voice("flite", accent, variant, pitch=pitch) for pitch in pitches]
    return tuple(found)


@dataclass(frozen=True)
class Utterance:
    """One spoken text."""

    id: str
    text: str  # A–Z, apostrophe, space
    speaker: str
    samples: np.ndarray  # float32 (T,), 16 kHz, in [-1, 1]


@dataclass(frozen=True)
class SyntheticSpeech:
    """A corpus of `count` utterances. Utterance i depends on these fields and i alone, so a corpus
    may be made in parts, in any order, and a longer one begins with the shorter one.

    Raises UserError for bad fields, a text file that cannot be used, or a missing engine.
    """

    kind: str  # of KINDS
    count: int
    split: str  # of SPLITS
    seed: int = 0
    texts: Path | None = None  # sentences to speak instead of ours: TSV with `transcript`, or lines
    engines: tuple[str, ...] = ("espeak",)
    max_words: int = 12  # longer sentences of `texts` are cut into phrases
    held_out: HeldOut = field(default=HeldOut(()), compare=False)  # never spoken out of `texts`

    def __post_init__(self) -> None:
        for name, value, known in (
            ("kind", self.kind, KINDS),
            ("split", self.split, SPLITS),
        ):
            if value not in known:
                raise UserError(f'synthetic: {name} = "{value}": use one of {", ".join(known)}')
        for name, number in (("count", self.count), ("max_words", self.max_words)):
            if number < 1:
                raise UserError(f"synthetic: {name} = {number}: use 1 or more")
        if not self.engines:
            raise UserError('synthetic: engines is empty: use ["espeak"]')
        if self.texts is not None and self.kind != "sentences":
            raise UserError('synthetic: texts are spoken with kind = "sentences" only')
        # Now rather than an hour into a run:
        for name in self.engines:
            engine(name)
        if self.texts is not None:
            _ = self._phrases

    @cached_property
    def _phrases(self) -> list[str]:
        """The file's phrases in this seed's order."""
        assert self.texts is not None
        phrases = read_phrases(self.texts, self.max_words, self.held_out)
        random.Random(f"{self.seed}/{self.split}").shuffle(phrases)
        return phrases

    def utterances(self) -> Iterator[Utterance]:
        """Every utterance in order."""
        return map(self.utterance, range(self.count))

    def utterance(self, index: int) -> Utterance:
        """Utterance `index`, 0 ≤ index < count; IndexError beyond."""
        if not 0 <= index < self.count:
            raise IndexError(f"utterance {index} of {self.count}")
        # A string seed: the standard library promises the same numbers in every release.
        rng = random.Random(f"{self.seed}/{self.split}/{index}")
        # The engine first: flite's few voices are to be heard as often as espeak's hundreds.
        voice = rng.choice(voices(self.split, (rng.choice(self.engines),)))
        spoken_as = replace(
            voice,
            rate=voice.rate * rng.uniform(0.75, 1.3),
            pitch=voice.pitch * rng.uniform(0.94, 1.06),
            range=voice.range * rng.uniform(0.6, 1.5),
        )
        level_dbfs, floor_dbfs = rng.uniform(-34, -16), rng.uniform(-75, -55)
        silences = rng.uniform(0.05, 0.4), rng.uniform(0.05, 0.4)
        noise_seed = rng.getrandbits(64)
        if self.texts is not None:
            text = self._phrases[index % len(self._phrases)]
        elif self.kind == "digits":
            text = " ".join(rng.choices(_DIGITS.split(), k=rng.randint(1, 7)))
        else:
            text = _sentence(rng, self.split)
        # Lower case: espeak spells out some words in capitals.
        speech = _at_level(synthesise(spoken_as, text.lower()), level_dbfs)
        samples = np.pad(speech, [round(seconds * SAMPLE_RATE) for seconds in silences])
        # A faint noise floor, for digital silence has a log spectrum like nothing in a recording.
        noise = np.random.default_rng(noise_seed).standard_normal(samples.size, dtype=np.float32)
        samples += 10 ** (floor_dbfs / 20) * noise
        source = self.kind if self.texts is None else self.texts.stem
        return Utterance(
            id=f"synthetic-{source}-{self.split}-{self.seed}-{index:06d}",
            text=text,
            speaker=voice.speaker,
            samples=np.clip(samples, -1.0, 1.0),
        )


def _at_level(speech: np.ndarray, level_dbfs: float) -> np.ndarray:
    """Scale float32 (T,) to an RMS of `level_dbfs`, or as near below as its peak allows."""
    gain = 10 ** (level_dbfs / 20) / np.sqrt(np.mean(speech**2))
    return speech * np.float32(min(gain, 0.95 / np.abs(speech).max()))


def _sentence(rng: random.Random, split: str) -> str:
    """A sentence of our grammar. Its hash says which split may have it, so that whatever the seeds,
    no sentence is in two splits; the words are common to all.
    """
    while True:
        template = rng.choice(_TEMPLATES)
        text = re.sub(r"\{(\w+)\}", lambda slot: rng.choice(_CHOICES[slot[1]]), template)
        bucket = zlib.crc32(text.encode()) % 10
        if split == {8: "dev", 9: "test"}.get(bucket, "train"):
            return text.replace("_", " ").upper()


def read_phrases(path: Path, max_words: int, held_out: HeldOut) -> list[str]:
    """The sentences of a text file in capitals, each cut into even phrases of ≤ `max_words` words.

    Sentences that are held out are left out, and phrases that are one.

    Punctuation goes. Raises UserError as `read_sentences`, and for a file that has no sentences, or
    digits or foreign letters in one (nobody knows how the engine would read it).
    """
    phrases: list[str] = []
    for number, sentence in read_sentences(path):
        words = _capitals(sentence).split()
        strange = re.search(r"[^A-Z' ]", " ".join(words))
        if strange:
            raise UserError(f'{path}:{number}: "{strange[0]}": write sentences in words of A–Z')
        if not words or " ".join(words) in held_out:
            continue
        parts = -(-len(words) // max_words)
        cuts = [len(words) * part // parts for part in range(parts + 1)]
        found = (" ".join(words[a:b]) for a, b in pairwise(cuts))
        phrases += [phrase for phrase in found if phrase not in held_out]
    if not phrases:
        raise UserError(f"synthetic: no sentences in {path}: write one a line")
    return phrases


def _capitals(text: str) -> str:
    """Upper case, without accents on letters, and with a space for each punctuation mark."""
    plain = unicodedata.normalize("NFKD", text.replace("’", "'").upper())
    return re.sub(r"[\u0300-\u036f]", "", plain).translate(_PUNCTUATION)
