"""Preparing a corpus: check every item, compute its features once, remember what was refused.

A prepared part is a folder: cuts.jsonl.gz (a lhotse CutSet with feature manifests), features.lca,
audio/ (synthetic speech alone: what lies elsewhere is not copied), bad.tsv (id and reason of every
refused item) and prepared.json (what it was made from).
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile
from filelock import FileLock
from lhotse import AudioSource, CutSet, Features, MonoCut, Recording, SupervisionSegment
from lhotse.features.io import LilcomChunkyWriter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.files import read_json, replacing, sweep, write_json, write_text
from pocketscribe.speech.corpora import (
    NOTHING_HELD_OUT,
    CorpusConfig,
    fingerprint,
    items,
    locate,
)
from pocketscribe.speech.features import HOP_SECONDS, MELS, SAMPLE_RATE, fbank, read_audio
from pocketscribe.speech.held_out import HeldOut
from pocketscribe.speech.items import Item, RefusedError, listen, unique, words_of

FORMAT = 2  # raise when features or cuts change, so that old caches are made anew
MAX_SECONDS = 120.0
MAX_SOUND_SECONDS = 3600.0  # of what nobody transcribes, such as noise
AT_ONCE = 64  # utterances in memory
CUTS, FEATURES = "cuts.jsonl.gz", "features.lca"


class Summary(Config):
    """How many utterances and seconds were prepared, and how many items are bad."""

    utterances: int
    seconds: float
    bad: int


class Written(Config):
    """What prepared.json holds.

    Attributes:
        bytes: the sizes of the files beside it, which are not written again.
    """

    corpus: str
    summary: Summary
    bytes: dict[str, int]


@dataclass(frozen=True)
class Prepared:
    """A prepared part of a corpus."""

    folder: Path
    config: CorpusConfig

    @property
    def cuts(self) -> CutSet:
        """Read lazily; the paths in the file are relative to the folder."""
        for name, size in self._written.bytes.items():
            if not (self.folder / name).is_file() or (self.folder / name).stat().st_size != size:
                raise UserError(self._damaged(f"{name} is not as it was written"))
        cuts = CutSet(_Whole(self))
        return cuts.with_features_path_prefix(self.folder).with_recording_path_prefix(self.folder)

    def _damaged(self, reason: str) -> str:
        return f"{self.folder}: {reason}; delete the folder, and it is prepared anew"

    @property
    def summary(self) -> dict[str, int | float]:
        """utterances, seconds, bad: how many of each."""
        return self._written.summary.model_dump()

    @property
    def _written(self) -> Written:
        path = self.folder / "prepared.json"
        return Written.read(read_json(path), str(path))


@dataclass(frozen=True)
class _Whole:
    """The cuts of a prepared part; damage among them is told in one line."""

    prepared: Prepared

    def __iter__(self) -> Iterator[MonoCut]:
        try:
            yield from CutSet.from_jsonl_lazy(self.prepared.folder / CUTS)
        except Exception as error:  # gzip, JSON and lhotse raise many kinds
            raise UserError(self.prepared._damaged(f"{CUTS} is damaged ({error})")) from None


def prepare(
    config: CorpusConfig,
    root: Path | None,
    out: Path,
    bad_share: float = 0.05,
    progress: Progress | None = None,
    *,
    held_out: HeldOut = NOTHING_HELD_OUT,
    transcribed: bool = True,
) -> Prepared:
    """Prepares one part of a corpus below `out`; what is there already is used as it is.

    Synthetic voices do not read what is `held_out`. What is not `transcribed` is sound without
    words, such as noise.

    Raises:
        UserError: the corpus is missing, or more than `bad_share` of its items are bad.
    """
    source = locate(config, root)
    name = re.sub(r"[^\w.-]", "-", config.title.replace("=", "_"))
    made_from = f"{FORMAT} {transcribed} {fingerprint(config, source, held_out)}"
    folder = out / f"{name}-{sha256(made_from.encode()).hexdigest()[:8]}"
    prepared = Prepared(folder, config)
    if not (folder / "prepared.json").is_file():
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / f".{folder.name}.lock"):  # another run may want it, too
            if not (folder / "prepared.json").is_file():
                sweep(out)
                with replacing(folder, folder=True) as beside:
                    found = items(config, source, held_out)
                    summary = _write(config, found, beside, progress, transcribed)
                    # What is refused is not kept but for the list: it may be mended.
                    rows, listed = beside / "bad.tsv", out / f"{name}.bad.tsv"
                    _check_bad(summary, bad_share, rows, listed, config)
    listed = folder / "bad.tsv"  # kept for somebody who allowed more
    _check_bad(prepared.summary, bad_share, listed, listed, config)
    return prepared


def _check_bad(
    summary: Mapping[str, int | float], share: float, rows: Path, listed: Path, config: CorpusConfig
) -> None:
    """Refuses a part of which more than `share` is bad; copies `rows` to `listed`, for people."""
    found = summary["utterances"] + summary["bad"]
    if summary["bad"] <= share * found:
        return
    if rows != listed:
        shutil.copyfile(rows, listed)
    first = listed.read_text(encoding="utf-8").splitlines()[1].replace("\t", ": ")
    raise UserError(
        f"corpus {config.title!r}: {summary['bad']} of {found} items are bad, more than "
        f"{share:.0%}; mend those listed in {listed}; the first: {first}"
    )


def progress_bar(console: Console) -> Progress:
    """The progress bar of all long work: what, how far, how long it took, time left."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def _write(
    config: CorpusConfig,
    source: Iterable[Item],
    folder: Path,
    progress: Progress | None,
    transcribed: bool,
) -> dict[str, int | float]:
    """Writes cuts, features, bad.tsv and prepared.json into `folder`; returns the summary."""
    (folder / "audio").mkdir()
    bad: list[tuple[str, str]] = []
    seconds, good = 0.0, 0
    task = progress.add_task(f"prepare {config.title}", total=None) if progress else None
    with (
        CutSet.open_writer(folder / CUTS) as cuts,
        LilcomChunkyWriter(folder / FEATURES) as store,
        ThreadPoolExecutor() as threads,
    ):
        source = unique(source, bad)
        while group := list(islice(source, AT_ONCE)):
            # Decoding and features release the interpreter's lock; writing stays in order.
            results = threads.map(lambda item: _try(item, folder, transcribed), group)
            for item, result in zip(group, results, strict=True):
                if isinstance(result, RefusedError):
                    bad.append((item.id, str(result)))
                    continue
                words, recording, features = result
                key = store.write(item.id, features)
                cut = _cut(item, words, recording, features, key)
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
    sizes = {name: (folder / name).stat().st_size for name in (CUTS, FEATURES)}
    about = {"corpus": config.title, "summary": summary, "bytes": sizes}
    write_json(folder / "prepared.json", about)
    return summary


def _try(
    item: Item, folder: Path, transcribed: bool
) -> tuple[str, Recording | None, np.ndarray] | RefusedError:
    """Words, recording and features, or why there are none."""
    try:
        words = words_of(item) if transcribed else ""
        samples = listen(item, MAX_SECONDS if transcribed else MAX_SOUND_SECONDS)
        if item.audio is None and item.sources:  # heard from within other files
            return words, None, fbank(samples)
        path = folder / _made_name(item) if item.audio is None else item.audio.absolute()
        if item.audio is None:
            soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
            samples = read_audio(path)
        recording = _recording(item.id, path)
        if recording.sampling_rate != SAMPLE_RATE:
            recording = recording.resample(SAMPLE_RATE)
        return words, recording, fbank(samples)
    except RefusedError as refused:
        return refused


def _recording(name: str, path: Path) -> Recording:
    """By soundfile alone: lhotse would hand some names to a shell."""
    about = soundfile.info(os.fsencode(path))
    channels = list(range(about.channels))
    return Recording(
        id=name,
        sources=[AudioSource(type="file", channels=channels, source=str(path))],
        sampling_rate=about.samplerate,
        num_samples=about.frames,
        duration=about.frames / about.samplerate,
        channel_ids=channels,
    )


def _made_name(item: Item) -> str:
    """Relative to the prepared folder; an id may hold slashes."""
    return f"audio/{quote(item.id, safe=' ')}.flac"


def _cut(
    item: Item, words: str, recording: Recording | None, features: np.ndarray, key: str
) -> MonoCut:
    if recording is not None and item.audio is None:  # the folder will be renamed
        recording.sources[0].source = _made_name(item)
    seconds = len(features) * HOP_SECONDS if recording is None else recording.duration
    manifest = Features(
        type="fbank",
        num_frames=features.shape[0],
        num_features=MELS,
        frame_shift=HOP_SECONDS,
        sampling_rate=SAMPLE_RATE,
        start=0,
        duration=seconds,
        storage_type=LilcomChunkyWriter.name,
        storage_path=FEATURES,
        storage_key=key,
        recording_id=item.id,
        channels=0,
    )
    supervision = SupervisionSegment(
        id=item.id,
        recording_id=item.id,
        start=0,
        duration=seconds,
        text=words,
        speaker=item.speaker,
        custom={k: v for k, v in item.columns.items() if k not in ("id", "path", "transcript")},
    )
    return MonoCut(
        id=item.id,
        start=0,
        duration=seconds,
        channel=0,
        recording=recording,
        features=manifest,
        supervisions=[supervision],
    )
