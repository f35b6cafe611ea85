"""Corpora: where speech lies and what was said in it, as one stream of `Item`s.

A corpus is a name below or a folder. Nothing is decoded here; preparing (prepare.py) does that and
turns bad items into a list with reasons.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from pydantic import Field, model_validator

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.speech.held_out import HeldOut
from pocketscribe.speech.synthetic import SPLITS, SyntheticSpeech

MANIFESTS = ("manifest.tsv", "manifest.jsonl")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".au")


class CorpusConfig(Config):
    """One part of a corpus.

    Attributes:
        corpus: a name (a folder with a manifest below the corpora's folder, librispeech, or
            synthetic), or a folder of your own.
        split: train, dev, test; for librispeech a part such as train-clean-100.
        weight: in training, how often this part is drawn for each second that it holds.
        where: keep items whose manifest columns have these values, e.g. { digits_only = "1" }.
        group: in scoring, also report each value of this manifest column on its own.
        kind, count, texts, max_words, engines, seed: for the synthetic corpus: what is spoken, how
            many utterances, a file of sentences to speak instead of the built-in grammar's, cut
            into phrases of at most so many words, by which engines, and the seed of texts and
            voices.
    """

    corpus: str
    split: str = "train"
    weight: float = Field(default=1.0, gt=0)
    where: dict[str, str] = Field(default={})
    group: str | None = None
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
        return self

    @property
    def title(self) -> str:
        """A short name for tables, e.g. `speechocean762 test digits_only=1`."""
        where = (f"{k}={v}" for k, v in self.where.items())
        return " ".join([Path(self.corpus).name, self.split, *where])


@dataclass(frozen=True)
class Item:
    """One utterance: an audio file, or samples that were made here."""

    id: str
    text: str
    speaker: str
    audio: Path | None = None
    samples: np.ndarray | None = None
    sample_rate: int = 16000
    columns: dict[str, str] = field(default_factory=dict)


def corpora_root(root: Path | None) -> Path:
    """Where the named corpora lie: `--root`, else POCKETSCRIBE_CORPORA, else ./corpora."""
    return root or Path(os.environ.get("POCKETSCRIBE_CORPORA") or "corpora")


def locate(config: CorpusConfig, root: Path | None) -> Path | None:
    """The corpus' folder; for synthetic speech its file of sentences, if it has one.

    Raises:
        UserError: there is no such corpus or no such folder.
    """
    if config.corpus == "synthetic":
        return texts_file(config, root)
    root = corpora_root(root)
    named = root / config.corpus
    if config.corpus == "librispeech" and not named.is_dir():
        named = root / "LibriSpeech"
    found = named if config.corpus in known(root) else Path(config.corpus)
    if not found.is_dir():
        raise UserError(
            f"corpus {config.corpus!r}: neither a folder nor a corpus in {root} "
            f"(there: {', '.join(known(root)) or 'none'}); "
            "set POCKETSCRIBE_CORPORA or --root to the folder that holds the corpora"
        )
    return found


def known(root: Path) -> list[str]:
    """The corpora that can be called by name: each folder below `root` with a manifest."""
    folders = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    manifests = [p.name for p in folders if any((p / name).is_file() for name in MANIFESTS)]
    libri = ["librispeech"] if {"librispeech", "LibriSpeech"} & {p.name for p in folders} else []
    return [*manifests, *libri]


def texts_file(config: CorpusConfig, root: Path | None) -> Path | None:
    """The file of sentences to speak: a path as it stands, or below the corpora's folder."""
    if config.texts is None or config.texts.is_file():
        return config.texts
    return corpora_root(root) / config.texts


NOTHING_HELD_OUT = HeldOut(())


def items(
    config: CorpusConfig, source: Path | None, held_out: HeldOut = NOTHING_HELD_OUT
) -> Iterator[Item]:
    """Every utterance of this part of the corpus, in a stable order; `source` is from `locate`.

    Synthetic voices do not read what is `held_out`.

    Raises:
        UserError: a manifest is missing or broken, or the split holds nothing.
    """
    found = False
    for item in _all_items(config, source, held_out):
        if all(item.columns.get(k) == v for k, v in config.where.items()):
            found = True
            yield item
    if not found:
        raise UserError(
            f"corpus {config.title!r}: no utterance matches in {source}; check split and where"
        )


def _all_items(config: CorpusConfig, source: Path | None, held_out: HeldOut) -> Iterator[Item]:
    if config.corpus == "synthetic":
        return _synthetic(config, source, held_out)
    assert source is not None
    if config.corpus == "fsdd":
        return _connected_digits(source, config.split)
    if config.corpus == "librispeech":
        return _librispeech(source, config.split)
    return _folder(source, config.split)


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
        yield Item(u.id, u.text, u.speaker, samples=u.samples)


def _folder(folder: Path, split: str) -> Iterator[Item]:
    """A folder with manifest.tsv or manifest.jsonl, or with audio beside .txt files."""
    for name, rows in zip(MANIFESTS, (_tsv, _jsonl), strict=True):
        if (manifest := folder / name).is_file():
            yield from _manifest(manifest, rows(manifest), split)
            return
    # Without a manifest a sub-folder's name is the split, where there are such sub-folders.
    splits = [name for name in SPLITS if (folder / name).is_dir()]
    part = folder / split if splits or (folder / split).is_dir() else folder
    audio = sorted(p for p in part.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    if not audio:
        found = f"; its splits: {', '.join(splits)}" if splits else ""
        raise UserError(f"{part}: no manifest.tsv, no manifest.jsonl and no audio in it{found}")
    for path in audio:
        text = path.with_suffix(".txt")
        words = text.read_text(encoding="utf-8", errors="replace") if text.is_file() else ""
        yield Item(path.relative_to(folder).as_posix(), words, path.parent.name, path)


def _manifest(
    manifest: Path, rows: Iterator[tuple[int, dict[str, str]]], split: str
) -> Iterator[Item]:
    for number, row in rows:
        path = row.get("path") or row.get("audio")
        text = row.get("transcript") or row.get("text") or ""
        if not path:
            raise UserError(f"{manifest}: line {number} has no 'path' of an audio file")
        if row.get("split", split) == split:
            speaker = row.get("speaker") or ""
            yield Item(row.get("id") or path, text, speaker, manifest.parent / path, columns=row)


def _tsv(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows; spreadsheets may have put a byte order mark first."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; the corpus is not complete")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        columns = next(file, "").rstrip("\n").split("\t")
        for number, line in enumerate(file, start=2):
            if line.strip():  # a short row has empty cells
                yield (
                    number,
                    dict(zip_longest(columns, line.rstrip("\n").split("\t"), fillvalue="")),
                )


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and objects; null is an empty string."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = {k: "" if v is None else str(v) for k, v in json.loads(line).items()}
            except (json.JSONDecodeError, AttributeError):
                raise UserError(f"{path}: line {number} is not a JSON object") from None
            yield number, row


def _connected_digits(folder: Path, split: str) -> Iterator[Item]:
    """Fsdd's single digits joined by connected.tsv: gaps_s[0] silence, clip, gaps_s[1], clip, …"""
    clips = {
        row.get("id"): folder / row.get("path", "") for _, row in _tsv(folder / "manifest.tsv")
    }
    table = folder / "connected.tsv"
    rate = 8000
    read = cache(lambda path: soundfile.read(path, dtype="float32")[0])
    for number, row in _tsv(table):
        if row.get("split") != split:
            continue
        try:
            item = Item(row["id"], row["transcript"], row["speaker"], sample_rate=rate)
            first, *gaps = (np.zeros(round(float(g) * rate)) for g in row["gaps_s"].split(","))
            parts = [first]
            for name, gap in zip(row["components"].split(","), gaps, strict=True):
                clip = clips[name]
                parts += [read(clip), gap]
            yield replace(item, samples=np.concatenate(parts, dtype=np.float32))
        except soundfile.SoundFileError:
            yield replace(item, audio=clip)  # whoever reads it says what ails it
        except (KeyError, ValueError) as error:
            raise UserError(f"{table}: line {number} cannot be joined ({error!r})") from None


def _librispeech(folder: Path, part: str) -> Iterator[Item]:
    """By lhotse's own recipe, from the unpacked download."""
    from lhotse.recipes import prepare_librispeech

    if not (folder / part).is_dir():
        parts = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())) or "none"
        raise UserError(f"{folder}: no part {part!r} of LibriSpeech there (found: {parts})")
    try:
        found = prepare_librispeech(folder, dataset_parts=(part,))[part]
    except Exception as error:  # lhotse raises many kinds for what is not LibriSpeech
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder / part}: not LibriSpeech as unpacked ({reason})") from None
    recordings = {r.id: r for r in found["recordings"]}
    for s in sorted(found["supervisions"], key=lambda s: s.id):
        audio = Path(recordings[s.recording_id].sources[0].source)
        yield Item(s.id, s.text or "", s.speaker or "", audio)
