"""Scoring a recogniser on a corpus: word errors, speed, memory, size, emission delay."""

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from pocketscribe.errors import UserError
from pocketscribe.evaluation.runtime import Runtime
from pocketscribe.evaluation.wer import Scored, WordErrorRate, score, word_error_rate
from pocketscribe.speech.corpora import CorpusConfig, items, locate
from pocketscribe.speech.features import SAMPLE_RATE
from pocketscribe.speech.items import Item, RefusedError, listen, unique, words_of

BATCH_SECONDS = 200.0  # of audio at once, padding included
SPEECH_DB = 30.0  # speech ends where the level last was within this of the loudest 10 ms


def evaluate(
    runtime: Runtime,
    corpus: CorpusConfig,
    root: Path | None,
    *,
    streaming: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Transcribes every utterance of a part of a corpus and scores it.

    Returns the documented keys of `evaluate --json`, and with them "emission_delay" (median seconds
    from the end of the speech to the last label), "unreadable" (how many were left out), "refused"
    (their ids and why), "streaming", "groups" (word errors for each value of the corpus' group
    column) and "hypotheses". What is left out is what `prepare` leaves out, but for its length.
    "peak_rss_bytes" is None: only whoever knows that this process did nothing else can fill it in.

    Raises:
        UserError: there is no such corpus or column, or nothing in it can be scored.
    """
    source = locate(corpus, root)
    shown = progress is not None and not progress.console.quiet
    total = sum(1 for _ in items(corpus, source)) if shown else None
    task = progress.add_task(corpus.title, total=total) if progress else None
    scored: list[Scored] = []
    groups: dict[str, list[Scored]] = {}
    delays: list[float] = []
    refused: list[tuple[str, str]] = []
    busy, heard = 0.0, 0.0
    for batch in _batches(items(corpus, source), refused):
        if corpus.group is not None and not scored:
            _check_group([item for item, *_ in batch], corpus.group)
        audio = [samples for _, _, samples in batch]
        started = time.perf_counter()
        found = runtime.transcribe(audio, streaming)
        busy += time.perf_counter() - started
        if progress and task is not None:
            progress.update(task, completed=len(scored) + len(batch) + len(refused))
        for (item, words, samples), said in zip(batch, found, strict=True):
            result = score(item.id, item.speaker, words, said.text)
            scored.append(result)
            if corpus.group is not None:
                groups.setdefault(_columns(item).get(corpus.group, ""), []).append(result)
            heard += len(samples) / SAMPLE_RATE
            if said.timestamps:
                delays.append(said.timestamps[-1] - speech_end(samples))
    if not scored:
        raise UserError(
            f"corpus {corpus.title!r}: nothing in it can be scored; the first: "
            + ": ".join(refused[0])
        )
    return {
        **vars(word_error_rate(scored)),
        "rtf": round(busy / heard, 5),
        "audio_seconds": round(heard, 2),
        "parameters_stored": runtime.parameters_stored,
        "parameters_virtual": runtime.parameters_virtual,
        "bytes": runtime.bytes,
        "peak_rss_bytes": None,
        "emission_delay": round(float(np.median(delays)), 3) if delays else None,
        "unreadable": len(refused),
        "refused": [{"id": name, "reason": reason} for name, reason in refused],
        "streaming": streaming or runtime.always_streams,
        "groups": {name: vars(word_error_rate(part)) for name, part in sorted(groups.items())},
        "hypotheses": [
            {"id": s.id, "reference": s.reference, "hypothesis": s.hypothesis} for s in scored
        ],
    }


def speech_end(samples: np.ndarray) -> float:
    """When the speech ends, in seconds: the last 10 ms within `SPEECH_DB` of the loudest."""
    hop = SAMPLE_RATE // 100
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    if not len(frames):
        return 0.0
    energy = (frames**2).mean(axis=1)
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (-SPEECH_DB / 10))
    return (int(loud[-1]) + 1) / 100


def peak_rss_bytes() -> int | None:
    """The most memory that this process has held; None on Windows, which does not tell."""
    try:
        # getrusage would also count what the process that started this one held.
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 if found else None
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on a Mac


def _columns(item: Item) -> dict[str, str]:
    """Every corpus knows speakers; a row may lack what others have."""
    return {"speaker": item.speaker, **item.columns}


def _check_group(first: Sequence[Item], column: str) -> None:
    """Raises UserError where none of the first items has the column."""
    there = {name: None for item in first for name in _columns(item)}
    if column not in there:
        raise UserError(f"--group {column}: no such column; there are {', '.join(there)}")


def _batches(
    source: Iterator[Item], refused: list[tuple[str, str]]
) -> Iterator[list[tuple[Item, str, np.ndarray]]]:
    """Items with their words and samples, about `BATCH_SECONDS` at a time; others are listed."""
    batch: list[tuple[Item, str, np.ndarray]] = []
    longest = 0
    for item in unique(source, refused):
        try:
            heard = (item, words_of(item), listen(item))
        except RefusedError as error:
            refused.append((item.id, str(error)))
            continue
        longest = max(longest, len(heard[2]))
        if batch and (len(batch) + 1) * longest > BATCH_SECONDS * SAMPLE_RATE:
            yield batch
            batch, longest = [], len(heard[2])
        batch.append(heard)
    if batch:
        yield batch


def summary(result: dict[str, Any]) -> WordErrorRate:
    """The word error rate of an `evaluate` result."""
    return WordErrorRate(**{k: result[k] for k in WordErrorRate.__dataclass_fields__})
