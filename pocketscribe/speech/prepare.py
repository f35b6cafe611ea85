"""Preparing a corpus: check every item, compute its features once, remember what was refused.

A prepared part is a folder: cuts.jsonl.gz (a lhotse CutSet with feature manifests), features.lca,
audio/ (only what was made here: synthetic speech, joined digits), bad.tsv (id and reason of every
refused item) and prepared.json (what it was made from).
"""

import gzip
import hashlib
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile
from lhotse import CutSet, Features, MonoCut, Recording, SupervisionSegment
from lhotse.features.io import LilcomChunkyWriter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.files import read_json, replacing, write_json, write_text
from pocketscribe.speech import text
from pocketscribe.speech.corpora import (
    AUDIO_SUFFIXES,
    NOTHING_HELD_OUT,
    CorpusConfig,
    Item,
    items,
    locate,
)
from pocketscribe.speech.features import (
    HOP_SECONDS,
    MELS,
    SAMPLE_RATE,
    audio_seconds,
    fbank,
    read_audio,
)
from pocketscribe.speech.held_out import HeldOut

FORMAT = 2  # raise when features or cuts change, so that old caches are made anew
MIN_SECONDS, MAX_SECONDS = 0.1, 120.0
AT_ONCE = 64  # utterances in memory


class BadItemError(Exception):
    """Why an item was refused."""


class Summary(Config):
    """How many utterances and seconds were prepared, and how many items are bad."""

    utterances: int
    seconds: float
    bad: int


class Written(Config):
    """What prepared.json holds."""

    corpus: str
    summary: Summary


@dataclass(frozen=True)
class Prepared:
    """A prepared part of a corpus."""

    folder: Path
    config: CorpusConfig

    @property
    def cuts(self) -> CutSet:
        """Read lazily; the paths in the file are relative to the folder."""
        cuts = CutSet.from_jsonl_lazy(self.folder / "cuts.jsonl.gz")
        return cuts.with_features_path_prefix(self.folder).with_recording_path_prefix(self.folder)

    @property
    def summary(self) -> dict[str, int | float]:
        """utterances, seconds, bad: how many of each."""
        path = self.folder / "prepared.json"
        return Written.read(read_json(path), str(path)).summary.model_dump()

    def check(self) -> None:
        """Raises UserError where what was prepared is damaged: found here, not hours later."""
        try:
            with gzip.open(self.folder / "cuts.jsonl.gz") as cuts:
                while cuts.read(2**20):  # ends with a checksum
                    pass
            (self.folder / "features.lca").stat()
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(
                f"{self.folder}: damaged ({error}); delete the folder to prepare it again"
            ) from None


def prepare(
    config: CorpusConfig,
    root: Path | None,
    out: Path,
    *,
    bad_share: float = 0.05,
    progress: Progress | None = None,
    held_out: HeldOut = NOTHING_HELD_OUT,
) -> Prepared:
    """Prepares one part of a corpus below `out`; what is there already is used as it is.

    Synthetic voices do not read what is `held_out`.

    Raises:
        UserError: the corpus is missing, or more than `bad_share` of its items are bad.
    """
    source = locate(config, root)
    name = re.sub(r"[^\w.-]", "-", config.title.replace("=", "_"))
    folder = out / f"{name}-{_fingerprint(config, source, held_out)}"
    prepared = Prepared(folder, config)
    if (folder / "prepared.json").is_file():
        prepared.check()
    else:
        with replacing(folder) as beside:
            summary = _write(config, items(config, source, held_out), beside, progress)
            found = summary["utterances"] + summary["bad"]
            if summary["bad"] > bad_share * found:  # nothing is kept but the list
                listed = out / f"{name}.bad.tsv"
                shutil.copyfile(beside / "bad.tsv", listed)
                first = listed.read_text(encoding="utf-8").splitlines()[1].replace("\t", ": ")
                raise UserError(
                    f"corpus {config.title!r}: {summary['bad']} of {found} items are bad, more "
                    f"than {bad_share:.0%}; mend those listed in {listed}; the first: {first}"
                )
    return prepared


def progress_bar(console: Console) -> Progress:
    """The progress bar of all long work: what, how far, how long it took, time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def _write(
    config: CorpusConfig, source: Iterable[Item], folder: Path, progress: Progress | None
) -> dict[str, int | float]:
    """Writes cuts, features, bad.tsv and prepared.json into `folder`; returns the summary."""
    (folder / "audio").mkdir(parents=True)
    bad: list[tuple[str, str]] = []
    seconds, good = 0.0, 0
    task = progress.add_task(f"prepare {config.title}", total=None) if progress else None
    with (
        CutSet.open_writer(folder / "cuts.jsonl.gz") as cuts,
        LilcomChunkyWriter(folder / "features.lca") as store,
        ThreadPoolExecutor() as threads,
    ):
        source = _unique(source, bad)
        while group := list(islice(source, AT_ONCE)):
            # Decoding and features release the interpreter's lock; writing stays in order.
            results = threads.map(lambda item: _try(item, folder), group)
            for item, result in zip(group, results, strict=True):
                if isinstance(result, BadItemError):
                    bad.append((item.id, str(result)))
                    continue
                recording, features = result
                cut = _cut(item, recording, features, store.write(item.id, features))
                cuts.write(cut)
                good, seconds = good + 1, seconds + cut.duration
            if progress and task is not None:
                progress.update(task, description=f"prepare {config.title}: {good} utterances")
    if progress and task is not None:
        progress.remove_task(task)
    rows = [("id", "reason"), *bad]
    cells = ("\t".join(" ".join(cell.split()) for cell in row) for row in rows)
    write_text(folder / "bad.tsv", "\n".join(cells) + "\n")
    summary = {"utterances": good, "seconds": round(seconds, 3), "bad": len(bad)}
    write_json(folder / "prepared.json", {"corpus": config.title, "summary": summary})
    return summary


def _unique(source: Iterable[Item], bad: list[tuple[str, str]]) -> Iterator[Item]:
    """Items with an id not seen before; the others go on the list."""
    seen: set[str] = set()
    for item in source:
        if item.id in seen:
            bad.append((item.id, "duplicate id"))
            continue
        seen.add(item.id)
        yield item


def _try(item: Item, folder: Path) -> tuple[Recording, np.ndarray] | BadItemError:
    try:
        words = text.normalise(item.text)
        if not words:
            raise BadItemError("empty transcript")
        if (character := text.unspellable(words)) is not None:
            raise BadItemError(f"the transcript holds {character!r}: spell it out")
        path = item.audio.resolve() if item.audio else _made(item, folder)
        seconds = audio_seconds(path)
        if not MIN_SECONDS <= seconds <= MAX_SECONDS:
            limits = f"{MIN_SECONDS} s to {MAX_SECONDS:.0f} s"
            raise BadItemError(f"{seconds:.2f} s long; allowed: {limits}")
        recording = Recording.from_file(path, recording_id=item.id)
        if recording.sampling_rate != SAMPLE_RATE:
            recording = recording.resample(SAMPLE_RATE)
        return recording, fbank(read_audio(path))
    except BadItemError as bad:
        return bad
    except Exception as error:  # a decoder may raise anything for a broken file
        return BadItemError(str(error) or type(error).__name__)


def _made(item: Item, folder: Path) -> Path:
    """Writes samples that were made here to a file."""
    assert item.samples is not None
    path = folder / _made_name(item)
    soundfile.write(path, item.samples, item.sample_rate, subtype="PCM_16")
    return path


def _made_name(item: Item) -> str:
    """Relative to the prepared folder; an id may hold slashes."""
    return f"audio/{quote(item.id, safe=' ')}.flac"


def _cut(item: Item, recording: Recording, features: np.ndarray, key: str) -> MonoCut:
    if item.audio is None:  # the folder will be renamed
        recording.sources[0].source = _made_name(item)
    manifest = Features(
        type="fbank",
        num_frames=features.shape[0],
        num_features=MELS,
        frame_shift=HOP_SECONDS,
        sampling_rate=SAMPLE_RATE,
        start=0,
        duration=recording.duration,
        storage_type=LilcomChunkyWriter.name,
        storage_path="features.lca",
        storage_key=key,
        recording_id=recording.id,
        channels=0,
    )
    supervision = SupervisionSegment(
        id=item.id,
        recording_id=recording.id,
        start=0,
        duration=recording.duration,
        text=text.normalise(item.text),
        speaker=item.speaker,
        custom={k: v for k, v in item.columns.items() if k not in ("id", "path", "transcript")},
    )
    return MonoCut(
        id=item.id,
        start=0,
        duration=recording.duration,
        channel=0,
        recording=recording,
        features=manifest,
        supervisions=[supervision],
    )


def _fingerprint(config: CorpusConfig, source: Path | None, held_out: HeldOut) -> str:
    """Changes with whatever the prepared part depends on: config, place, manifests, format."""
    digest = hashlib.sha256(f"{FORMAT}".encode())
    digest.update(config.model_dump_json(exclude={"weight", "group"}, exclude_none=True).encode())
    if config.texts is not None:
        digest.update(held_out.digest.encode())
    if source is not None:
        digest.update(str(source.resolve()).encode())
        manifests = (
            [source] if source.is_file() else [*source.glob("*.tsv"), *source.glob("*.jsonl")]
        )
        for manifest in sorted(manifests):
            digest.update(manifest.read_bytes())
        if not manifests:  # the files themselves are the manifest
            part = source / config.split
            for path in sorted((part if part.is_dir() else source).rglob("*.*")):
                if path.suffix.lower() in (*AUDIO_SUFFIXES, ".txt") and path.is_file():
                    about = path.stat()
                    digest.update(f"{path} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()[:8]
