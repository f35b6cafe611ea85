"""Corpora in folders: a table of audio files and transcripts, clips to be joined, or .txt files."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path, PurePath

import numpy as np

from pocketscribe.errors import UserError
from pocketscribe.speech.features import SAMPLE_RATE, UNREAD, read_audio
from pocketscribe.speech.items import ALL, Item, split_up

AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64"),
    *UNREAD,  # is told, one by one
)


def is_audio(path: PurePath) -> bool:
    """By its name; not what a system puts beside files, such as a Mac's `._a.flac`."""
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


Rows = Iterator[tuple[int, dict[str, str]]]  # line numbers and rows


def manifest(file: Path, split: str) -> Iterator[Item]:
    """A table with a row an utterance: path (or audio), transcript (or text), and if there are such
    columns id, speaker and split.

    A row without a split, where others have one, is only in all of them together.
    """
    rows = list(ROWS[file.suffix](file))
    named = any(row.get("split") for _, row in rows)
    found = []
    columns = dict.fromkeys(column for _, row in rows for column in row)
    has = f"its columns: {', '.join(map(repr, columns))}"
    if rows and not columns.keys() & {"path", "audio"}:
        raise UserError(f"{file}: no column 'path' of audio files ({has})")
    there = columns.keys() & {"transcript", "text"}
    textless = "empty transcript" if there else f"no column 'transcript' ({has})"
    for number, row in rows:
        path = row.get("path") or row.get("audio")
        if not path:
            raise UserError(f"{file}: line {number} has no 'path' of an audio file")
        if not named or split in (ALL, row.get("split")):
            said = row.get("transcript") or row.get("text") or ""
            name, speaker = row.get("id") or path, row.get("speaker") or ""
            audio = file.parent / path
            found.append(Item(name, said, speaker, audio, columns=row, textless=textless))
    yield from found if named else split_up(found, split, file)


def connected_digits(file: Path, split: str) -> Iterator[Item]:
    """Clips of the manifest beside connected.tsv, joined as its columns say: id, speaker, split,
    transcript, components (ids of clips) and gaps_s (silence before each clip, and after the last).
    """
    clips = {
        row.get("id"): file.parent / row.get("path", "")
        for _, row in _tsv(file.parent / "manifest.tsv")
    }
    for number, row in _tsv(file):
        if split not in (ALL, row.get("split")):
            continue
        try:
            gaps = [round(float(gap) * SAMPLE_RATE) for gap in row["gaps_s"].split(",")]
            joined = tuple(clips[name] for name in row["components"].split(","))
            if len(gaps) != len(joined) + 1:
                raise ValueError(f"{len(joined)} clips, {len(gaps)} gaps")
            item = Item(row["id"], row["transcript"], row["speaker"], columns=row)
        except (KeyError, ValueError, OverflowError) as error:
            raise UserError(f"{file}: line {number} cannot be joined ({error!r})") from None
        yield replace(item, made=partial(_join, joined, gaps), sources=joined)


def _join(clips: tuple[Path, ...], gaps: list[int]) -> np.ndarray:
    parts = [np.zeros(gaps[0], np.float32)]
    for clip, gap in zip(clips, gaps[1:], strict=True):
        parts += [read_audio(clip), np.zeros(gap, np.float32)]
    return np.concatenate(parts)


def text_files(folder: Path, split: str) -> Iterator[Item]:
    """Audio files, each beside a .txt file of its name; a folder below is the speaker."""
    audio = sorted(filter(is_audio, folder.rglob("*")))
    if not audio:
        raise UserError(f"{folder}: no {', no '.join(MANIFESTS)} and no audio in it")
    yield from split_up([_beside_text(path, folder) for path in audio], split, folder)


def _beside_text(audio: Path, folder: Path) -> Item:
    file = audio.with_suffix(".txt")
    speaker = audio.parent.name if audio.parent != folder else ""
    there = file.is_file()
    said = file.read_text(encoding="utf-8", errors="replace") if there else ""
    name, columns = audio.relative_to(folder).as_posix(), {"speaker": speaker}
    textless = "empty transcript" if there else f"no {file.name} beside it"
    return Item(name, said, speaker, audio, columns=columns, textless=textless)


def _tsv(path: Path) -> Rows:
    """Spreadsheets may have put a byte order mark first."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; the corpus is not complete")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        columns = _cells(next(file, ""))
        for number, line in enumerate(file, start=2):
            if line.strip():  # a short row has empty cells
                yield number, dict(zip_longest(columns, _cells(line), fillvalue=""))


def _cells(line: str) -> list[str]:
    """Without the quotes that some spreadsheets put round whole cells."""
    cells = (cell.strip() for cell in line.rstrip("\n").split("\t"))
    return [c[1:-1] if c[:1] == c[-1:] == '"' and c.count('"') == 2 else c for c in cells]


def _csv(path: Path) -> Rows:
    """As spreadsheets write it: cells may be quoted, and hold commas and line ends."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.DictReader(file, restval="")
        try:
            for row in rows:
                row.pop(None, None)  # cells beyond the columns
                yield rows.line_num, row
        except csv.Error as error:
            raise UserError(f"{path}: not CSV after line {rows.line_num} ({error})") from None


def _jsonl(path: Path) -> Rows:
    """An object a line; null is an empty string."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json_row(line)
            except ValueError:
                raise UserError(f"{path}: line {number} is not a JSON object") from None
            yield number, row


def json_row(text: str | bytes) -> dict[str, str]:
    """A JSON object as a row; null is an empty string. Raises ValueError where it is none."""
    try:
        row = {k: "" if v is None else str(v) for k, v in json.loads(text).items()}
        "".join((*row, *row.values())).encode()  # half a surrogate pair is no text
    except (AttributeError, RecursionError) as error:
        raise ValueError("no JSON object") from error
    return row


ROWS: dict[str, Callable[[Path], Rows]] = {".tsv": _tsv, ".csv": _csv, ".jsonl": _jsonl}
MANIFESTS = tuple(f"manifest{suffix}" for suffix in ROWS)
