"""What a folder of speech holds: what a plan goes by, and what its owner should know."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
from rich.progress import Progress as Bar

from pocketscribe.errors import UserError, UserHint
from pocketscribe.speech.corpora import (
    CorpusConfig,
    corpora_root,
    items,
    known,
    locate,
    other_splits,
)
from pocketscribe.speech.items import EmptyPartError, RefusedError, listen
from pocketscribe.speech.prepare import Prepared, prepare
from pocketscribe.speech.synthetic import SPLITS

SAMPLED = 50  # recordings whose level and rate are looked at
SHOWN = 3  # unusable ones of a part


@dataclass
class Part:
    """One split: what of it can be used."""

    hours: float = 0.0
    utterances: int = 0
    speakers: set[str] = field(default_factory=set)
    words: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, str]] = field(default_factory=list)
    listed: Path | None = None  # a file of what is bad


@dataclass
class Look:
    """A folder.

    Attributes:
        corpus: what a recipe calls it: by its name, or its whole path.
        parts: by split; a folder of a handful of recordings has no dev and test.
        split_by: how the parts were made where the folder says nothing of them, for people.
        levels: of some recordings, in dB below full scale.
        rates: samples a second of some recordings, and how many have them.
        others: parts by names that are none of `SPLITS`, and how many utterances each has.
    """

    folder: Path
    corpus: str
    parts: dict[str, Part]
    split_by: str
    levels: list[float]
    rates: Counter[int]
    others: dict[str, int]

    @property
    def train(self) -> Part:
        return self.parts["train"]

    @property
    def letters(self) -> set[str]:
        """What its words are spelt with."""
        return {c for part in self.parts.values() for word in part.words for c in word}

    def lines(self) -> Iterator[str]:
        """For people."""
        for split, part in self.parts.items():
            speakers = _count(part.speakers, "speaker") if part.speakers else "speakers not named"
            bad = f", {len(part.bad)} unusable" if part.bad else ""
            yield (
                f"{split}: {part.utterances} utterances, {_duration(part.hours)}, {speakers}, "
                f"{sum(part.words.values())} words ({len(part.words)} different){bad}"
            )
            for name, reason in part.bad[:SHOWN]:
                yield f"  unusable: {name}: {reason}"
            if len(part.bad) > SHOWN:
                yield f"  … and {len(part.bad) - SHOWN} more: {part.listed}"
        if self.split_by:
            yield self.split_by
        for name, count in self.others.items():
            yield f"left out: {count} utterances of split {name!r}, none of {', '.join(SPLITS)}"
        rates = ", ".join(f"{rate / 1000:g} kHz: {n}" for rate, n in self.rates.most_common())
        low, high = np.percentile(self.levels, [5, 95]) if self.levels else (0.0, 0.0)
        count = len(self.levels)
        yield f"of {count} recordings: {rates or 'made'}; level {low:.0f} to {high:.0f} dB"
        heard = self.parts.get("test", Part()).speakers & self.train.speakers
        if heard:
            both = _count(heard, "speaker")
            yield f"{both} in train and in test: strangers will be misheard more often"


def look(folder: str, root: Path | None, prepared: Path, bar: Bar) -> Look:
    """Prepares the parts of a folder below `prepared`, and looks at them.

    Raises:
        UserError: there is no speech, or nothing to train on.
    """
    parts: dict[str, Part] = {}
    split_by, missing = "", []
    for split in SPLITS:
        config = CorpusConfig(corpus=folder, split=split)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                found = prepare(config, root, prepared, 1.0, bar)
            except EmptyPartError:
                if split == "train":
                    raise
                missing.append(split)
                continue
        parts[split] = _part(found)
        if any(issubclass(w.category, UserHint) for w in said):
            split_by = _split_by(parts)
    if missing and not split_by:
        split_by = (
            f"no part of it is {' or '.join(missing)}: name the split of each utterance to have one"
        )
    if not parts["train"].utterances:
        first = ": ".join(parts["train"].bad[0]) if parts["train"].bad else "no utterances"
        raise UserError(f"{folder}: nothing to train on; the first: {first}")
    config = CorpusConfig(corpus=folder, split="train")
    count = parts["train"].utterances + len(parts["train"].bad)
    # One by one: those from archives hold their sound.
    every = islice(items(config, locate(config, root)), 0, None, max(1, count // SAMPLED))
    levels, rates = [], Counter[int]()
    with warnings.catch_warnings(action="ignore", category=UserHint):  # split_by tells it
        for item in islice(every, SAMPLED):
            try:
                samples = listen(item)
            except RefusedError:
                continue
            levels.append(10 * float(np.log10((samples**2).mean() + 1e-10)))
            if item.audio is not None:
                rates[soundfile.info(os.fsencode(item.audio)).samplerate] += 1
    place = locate(config, root).path or Path(folder)
    corpus = folder if folder in known(corpora_root(root)) else str(place)
    return Look(place, corpus, parts, split_by, levels, rates, other_splits(place))


def _part(prepared: Prepared) -> Part:
    listed = prepared.folder / "bad.tsv"
    part = Part(hours=prepared.summary["seconds"] / 3600, listed=listed)
    for cut in prepared.cuts:
        said = cut.supervisions[0]
        part.utterances += 1
        part.words.update(said.text.split())
        part.speakers |= {said.speaker} - {"", None}
    rows = listed.read_text(encoding="utf-8").splitlines()[1:]
    part.bad = [tuple(row.split("\t", 1)) for row in rows]  # type: ignore[misc]
    return part


def _split_by(parts: dict[str, Part]) -> str:
    """Nothing says which split an utterance is in (speech.items.split_up)."""
    named: set[str] = set().union(*(part.speakers for part in parts.values()))
    shared = len(named) < sum(len(part.speakers) for part in parts.values())
    if named and not shared:
        return "no splits are named: a tenth of the speakers is dev, a tenth test"
    known = _count(named, "speaker") if named else "no speaker"
    return (
        f"no splits are named, and {known}: a tenth of the utterances is dev, a tenth test; to "
        "split by speaker, name ten or more in a manifest, or give each a folder"
    )


def _count(found: set[str], what: str) -> str:
    return f"{len(found)} {what}{'' if len(found) == 1 else 's'}"


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
