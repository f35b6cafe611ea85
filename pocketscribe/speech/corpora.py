"""Corpora: where speech lies and what was said in it, as one stream of `Item`s.

A corpus is a folder of a kind that `FORMATS` names, a corpus that lhotse has a recipe for, or
synthetic speech. Nothing is decoded here; preparing (prepare.py) does that and turns bad items into
a list with reasons.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.speech.archives import INDEX, SHAR, TARS, archives
from pocketscribe.speech.cut_sets import CUTS, by_recipe, cut_sets, one_cut_set, recipe
from pocketscribe.speech.held_out import HeldOut
from pocketscribe.speech.items import ALL, EmptyPartError, Item
from pocketscribe.speech.manifests import (
    MANIFESTS,
    connected_digits,
    is_audio,
    manifest,
    text_files,
)
from pocketscribe.speech.reverberation import in_a_room
from pocketscribe.speech.synthesis import engine
from pocketscribe.speech.synthetic import SPLITS, SyntheticSpeech

Reader = Callable[[Path, str], Iterator[Item]]  # what a file says of a split

# How a folder is read: by the first of these files that is in it.
FORMATS: dict[str, Reader] = {
    "connected.tsv": connected_digits,
    **dict.fromkeys(MANIFESTS, manifest),
    **dict.fromkeys((INDEX, SHAR), archives),
    f"*cuts*{CUTS}": cut_sets,
    TARS: archives,
}


class CorpusConfig(Config):
    """One part of a corpus.

    Attributes:
        corpus: a name (synthetic, a folder below the corpora's folder that `FORMATS` can read, or
            one named like the recipe that lhotse has for it, such as librispeech), or a folder of
            your own.
        split: train, dev, test, or whatever the corpus calls its parts, such as train-clean-100;
            all is all of them. A corpus that names none is split up by speaker.
        weight: in training, how often this part is drawn for each second that it holds.
        where: keep items whose manifest columns have these values, e.g. { digits_only = "1" }.
        group: in scoring, also report each value of this manifest column on its own.
        rooms: a folder of room responses: each utterance is heard in one of the rooms.
        kind, count, texts, max_words, engines, seed: for the synthetic corpus: what is spoken, how
            many utterances, a file of sentences to speak instead of the built-in grammar's, cut
            into phrases of at most so many words, by which engines, and the seed of texts and
            voices.
    """

    corpus: str
    split: str = "train"
    weight: float = Field(default=1.0, ge=1e-6, le=1e6)
    where: dict[str, str] = Field(default={})
    group: str | None = None
    rooms: Path | None = None
    kind: Literal["digits", "sentences"] | None = None
    count: int | None = Field(default=None, gt=0)
    texts: Path | None = None
    engines: tuple[Literal["espeak", "flite"], ...] | None = None
    seed: int | None = None
    max_words: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> "CorpusConfig":
        synthetic = {
            k
            for k in ("kind", "count", "texts", "engines", "seed", "max_words")
            if getattr(self, k) is not None
        }
        if self.corpus != "synthetic" and synthetic:
            raise ValueError(f"{sorted(synthetic)[0]!r} belongs to corpus = 'synthetic' alone")
        if self.corpus == "synthetic" and self.where:
            raise ValueError("'where' asks for columns, and corpus = 'synthetic' has none")
        return self

    def shares_with(self, other: "CorpusConfig") -> bool:
        """Whether recordings may be in both parts. Synthetic ones are made for each, of sentences
        that both read where `texts` are the same.
        """
        if self.corpus == other.corpus == "synthetic":
            return self.texts is not None and self.texts == other.texts
        same = self.corpus == other.corpus
        apart = any(other.where.get(key, value) != value for key, value in self.where.items())
        return (
            same and (self.split == other.split or "all" in (self.split, other.split)) and not apart
        )

    @property
    def name(self) -> str:
        """The last of a path, of which "." too has one."""
        return _absolute(Path(self.corpus)).name

    @property
    def title(self) -> str:
        """A short name for tables, e.g. `speechocean762 test digits_only=1`."""
        where = (f"{k}={v}" for k, v in self.where.items())
        rooms = [] if self.rooms is None else [f"rooms={self.rooms.name}"]
        return " ".join([self.name, self.split, *where, *rooms])


@dataclass(frozen=True)
class Source:
    """What there is of a part of a corpus on this machine.

    Attributes:
        path: the corpus' folder or cut set; for synthetic speech its file of sentences, if any.
        responses: the room responses to hear it through.
    """

    path: Path | None
    responses: tuple[Path, ...] = ()


def corpora_root(root: Path | None) -> Path:
    """Where the named corpora lie: `--root`, else POCKETSCRIBE_CORPORA, else ./corpora."""
    return root or Path(os.environ.get("POCKETSCRIBE_CORPORA") or "corpora")


def locate(config: CorpusConfig, root: Path | None) -> Source:
    """What the part is made of; quick, so that what is missing is told before work begins.

    Raises:
        UserError: there is no such corpus, folder or speech engine.
    """
    if not config.corpus or not config.split:
        raise UserError('a corpus and its split need names; the folder that you are in is "."')
    root = corpora_root(root)
    responses: tuple[Path, ...] = ()
    if config.rooms is not None:
        folder = _below(root, config.rooms)
        responses = tuple(sorted(filter(is_audio, folder.rglob("*"))))
        if not responses:
            raise UserError(f"rooms = {str(config.rooms)!r}: no audio there, nor below {root}")
    if config.corpus == "synthetic":
        for name in config.engines or ():
            engine(name)
        texts = None if config.texts is None else _below(root, config.texts)
        return Source(texts, responses)
    path = place(config, root)
    if not path.is_dir() and not (path.is_file() and path.name.endswith(CUTS)):
        raise UserError(
            f"corpus {config.corpus!r}: neither a folder nor a corpus in {root} "
            f"(there: {', '.join(known(root)) or 'none'}); "
            "set POCKETSCRIBE_CORPORA or --root to the folder that holds the corpora"
        )
    return Source(_absolute(path), responses)


def place(config: CorpusConfig, root: Path) -> Path:
    """Where a corpus that is not synthetic would lie, by its name or as a path."""
    return known(root).get(config.corpus, Path(config.corpus))


def known(root: Path) -> dict[str, Path]:
    """The corpora that can be called by name, and their folders."""
    folders = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    found = {p.name: p for p in folders if _format(p)}
    return {**{p.name.lower(): p for p in folders if recipe(p.name.lower())}, **found}


def _below(root: Path, path: Path) -> Path:
    """A path as it stands, or below the corpora's folder; absolute either way."""
    return _absolute(path if path.exists() else root / path)


def _absolute(path: Path) -> Path:
    """One name for a place; links stay, for their names may say what is there."""
    return Path(os.path.abspath(path))


NOTHING_HELD_OUT = HeldOut(())


def items(
    config: CorpusConfig, source: Source, held_out: HeldOut = NOTHING_HELD_OUT
) -> Iterator[Item]:
    """Every utterance of this part of the corpus, in a stable order; `source` is from `locate`.

    Synthetic voices do not read what is `held_out`.

    Raises:
        UserError: a manifest is missing or broken.
        EmptyPartError: the split holds nothing.
    """
    found = False
    for item in _reader(config, source.path, held_out)():
        if all(item.columns.get(k) == v for k, v in config.where.items()):
            found = True
            yield in_a_room(item, source.responses) if source.responses else item
    if not found:
        others = other_splits(source.path) if source.path is not None else {}
        there = f" (splits there: {', '.join(map(repr, others))})" if others else ""
        raise EmptyPartError(
            f"corpus {config.title!r}: no utterance matches in {source.path}; check split and "
            f"where{there}"
        )


def _reader(
    config: CorpusConfig, path: Path | None, held_out: HeldOut
) -> Callable[[], Iterator[Item]]:
    if config.corpus == "synthetic":
        return partial(_synthetic, config, path, held_out)
    assert path is not None
    if path.is_file():
        return partial(one_cut_set, path, config.split)
    if _by_recipe(config, path):
        return partial(by_recipe, config.corpus, path, config.split)
    return partial(_folder, path, config.split)


def _by_recipe(config: CorpusConfig, folder: Path) -> bool:
    """Whether lhotse reads it: a corpus by name that is laid out in no way of ours."""
    named = os.sep not in config.corpus and folder.name.lower() == config.corpus
    return named and not _format(folder) and recipe(config.corpus) is not None


def _format(folder: Path) -> tuple[Reader, Path] | None:
    """How a folder is read, and the file that says so."""
    found = ((read, f) for pattern, read in FORMATS.items() for f in sorted(folder.glob(pattern)))
    return next(found, None)


def _in_archives(path: Path) -> bool:
    """Whether to ask what is in it would be to read all of it."""
    kinds = (_format(folder) for folder in (path, *path.glob("*")) if folder.is_dir())
    return any(kind is not None and kind[0] is archives for kind in kinds)


def _folder(folder: Path, split: str) -> Iterator[Item]:
    """A folder of one of the formats, or of folders of splits, or with audio beside .txt files."""
    if (found := _format(folder)) is not None:
        read, file = found
        return read(file, split)
    parts = [part for part in dict.fromkeys((*SPLITS, split)) if (folder / part).is_dir()]
    if not parts:
        return text_files(folder, split)
    if split == ALL:
        parts += other_splits(folder)
    if split not in (ALL, *parts):
        raise EmptyPartError(f"{folder / split}: no such folder; its splits: {', '.join(parts)}")
    return (
        replace(item, id=f"{part}/{item.id}")
        for part in (parts if split == ALL else [split])
        for item in _folder(folder / part, ALL)
    )


def other_splits(folder: Path) -> dict[str, int]:
    """What a folder calls parts of it that are none of `SPLITS`, and how many utterances each has.

    Of archives nothing is told: to ask would be to read them.
    """
    if not folder.is_dir() or _in_archives(folder):
        return {}
    if (found := _format(folder)) is not None:
        read, file = found
        rows = read(file, ALL) if read is manifest else ()
        names = [item.columns.get("split", "") for item in rows]
        return {n: c for n, c in Counter(names).items() if any(names) and n not in SPLITS}
    if not any((folder / part).is_dir() for part in SPLITS):
        return {}
    others = (p for p in sorted(folder.iterdir()) if p.is_dir() and p.name not in SPLITS)
    counts = {p.name: sum(map(is_audio, p.rglob("*"))) for p in others}
    return {name: count for name, count in counts.items() if count}


def _synthetic(config: CorpusConfig, texts: Path | None, held_out: HeldOut) -> Iterator[Item]:
    speech = SyntheticSpeech(
        kind=config.kind or "sentences",
        texts=texts,
        count=config.count or 1000,
        split=config.split,
        seed=config.seed or 0,
        engines=config.engines or ("espeak",),
        max_words=config.max_words or 12,
        held_out=held_out,
    )
    for u in speech.utterances():
        yield Item(u.id, u.text, u.speaker, made=partial(np.asarray, u.samples))


def fingerprint(config: CorpusConfig, source: Source, held_out: HeldOut) -> str:
    """Changes with whatever the part's sound and words depend on; the same by whatever path it is
    called. Nothing is decoded.
    """
    keys = config.model_dump_json(exclude={"corpus", "weight", "group", "rooms"}, exclude_none=True)
    digest = hashlib.sha256(keys.encode())
    files, path = dict.fromkeys(source.responses), source.path
    if config.corpus == "synthetic":
        digest.update(b"synthetic")
        if path is not None:
            digest.update(f"{path} {held_out.digest}".encode())
            files[path] = None
    elif path is not None and (_by_recipe(config, path) or _in_archives(path)):
        part = path / config.split
        files |= dict.fromkeys(sorted((part if part.is_dir() else path).rglob("*.*")))
    else:
        for item in items(config, Source(path), held_out):
            digest.update(repr((item.id, item.text, item.speaker, item.columns)).encode())
            files |= dict.fromkeys(item.files)
    for file in files:
        digest.update(os.fsencode(file))
        with suppress(OSError):  # a name that is too long is no file, either
            if file.is_file():
                about = file.stat()
                digest.update(f"{about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()[:8]
