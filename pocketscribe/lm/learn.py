"""`pocketscribe lm`: a language model out of text, without the sentences that are scored."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from warnings import warn

from pocketscribe.errors import UserError, UserHint
from pocketscribe.lm import ngram
from pocketscribe.speech.corpora import (
    CorpusConfig,
    EmptyPartError,
    corpora_root,
    items,
    known,
    locate,
)
from pocketscribe.speech.held_out import HeldOut
from pocketscribe.speech.text import normalise, read_sentences
from pocketscribe.speech.units import UNKNOWN, Units

MOST_TIMES = 1000


class Text(NamedTuple):
    """A file of sentences, and how often they count: a little of what will be said, say, for as
    much as a lot of other people's.
    """

    path: Path
    times: int = 1


def read_text(text: str) -> Text:
    """FILE or FILE:TIMES, as it is written on the command line; UserError for other times."""
    path, _, times = text.rpartition(":")
    if not path or not times.isdecimal():
        return Text(Path(text))
    if not 1 <= int(times) <= MOST_TIMES:
        raise UserError(f"--text {text}: a file counts once to {MOST_TIMES} times")
    return Text(Path(path), int(times))


def make_lm(
    units: Units, texts: Sequence[Text], scored: HeldOut, order: int, budget: int, out: Path
) -> dict[str, Any]:
    """Learns from files of sentences and writes the model's file.

    Returns the file's card: what it was learnt from, and how many sentences were left out because
    they are `scored`, or cannot be spelt in the units.

    Raises:
        UserError: a file cannot be read, nothing is left to learn from, or the budget is too small.
    """
    sentences, left_out, unspelt = [], 0, 0
    for path, times in texts:
        for _, line in read_sentences(path):
            sentence = normalise(line)
            labels = units.encode(sentence)
            if sentence in scored:
                left_out += 1
            elif UNKNOWN in labels:
                unspelt += 1
            elif labels:
                sentences += [labels] * times
    if not sentences:
        raise UserError(
            f"{texts[0].path}: no sentence to learn from "
            f"({left_out} are scored in dev or test, {unspelt} are not spelt in this model's units)"
        )
    arrays = ngram.learn(sentences, len(units), order, budget)
    card = {
        "texts": {text.path.name: text.times for text in texts},
        "sentences": len(sentences),
        "labels": sum(map(len, sentences)),
        "left_out": left_out,
        "held_out": scored.digest,
        "unspellable": unspelt,
        "order": order,
        "ngrams": len(arrays["labels"]),
    }
    ngram.save(out, arrays, units, card, budget)
    return card


def held_out(without: Iterable[CorpusConfig], root: Path | None) -> HeldOut:
    """What is said in these parts, and in dev and test of every corpus there is.

    A corpus that happens to lie there and cannot be read is told, and is no obstacle.

    Raises:
        UserError: one of `without` cannot be read, or holds nothing.
    """
    folder = corpora_root(root)
    found = [item.text for part in without for item in items(part, locate(part, root))]
    for name in known(folder):
        for split in _scored_splits(name, folder):
            part = CorpusConfig(corpus=name, split=split)
            try:
                found += [item.text for item in items(part, locate(part, root))]
            except EmptyPartError:  # many corpora are for training alone
                continue
            except UserError as error:
                warn(UserHint(f"{name} {split} is not held out: {error}"), stacklevel=2)
    return HeldOut(found)


def _scored_splits(name: str, folder: Path) -> Iterable[str]:
    if name != "librispeech":
        return ("dev", "test")
    parts = [*folder.glob("[lL]ibri[sS]peech/dev-*"), *folder.glob("[lL]ibri[sS]peech/test-*")]
    return sorted(path.name for path in parts)


def read_part(text: str) -> CorpusConfig:
    """CORPUS:SPLIT, as it is written on the command line; UserError where it is not."""
    corpus, _, split = text.rpartition(":")
    if not corpus or not split:
        raise UserError(f"--without {text}: write CORPUS:SPLIT, such as my_folder:test")
    return CorpusConfig(corpus=corpus, split=split)
