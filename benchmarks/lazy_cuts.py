"""Memory of training on so many utterances: python benchmarks/lazy_cuts.py [--utterances N …]

Each count in a process of its own: a prepared part of that many utterances (few sounds, many cuts),
looked through as a stage does, and then batches from it. Memory is what that process grows by.
"""

import gzip
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pocketscribe.files import read_json, write_json
from pocketscribe.speech.augment import AugmentConfig
from pocketscribe.speech.batches import TrainingBatches, label_entropy, trainable
from pocketscribe.speech.corpora import CorpusConfig
from pocketscribe.speech.prepare import CUTS, Prepared, Written, prepare
from pocketscribe.speech.units import Units, UnitsConfig

CONFIG = CorpusConfig(corpus="synthetic", kind="digits", count=50)
LETTERS = ["ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]


def main(
    utterances: Annotated[list[int], typer.Option()] = [10_000, 100_000, 1_000_000],  # noqa: B006
    batches: int = 300,
) -> None:
    table = Table(
        "utterances", "memory, MiB", "looked through, s", "first batch, s", "batches a second"
    )
    with TemporaryDirectory() as folder:
        small = prepare(CONFIG, None, Path(folder))
        for count in utterances:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                row = alone.submit(measured, small.folder, count, batches).result()
            table.add_row(f"{count:,}", *(f"{value:,.1f}" for value in row))
    Console().print(table)


def measured(small: Path, count: int, batches: int) -> tuple[float, float, float, float]:
    """MiB, seconds until everything was looked at, seconds to a batch, batches a second."""
    with TemporaryDirectory() as folder:
        part = many(small, count, Path(folder))
        units = Units.learn(LETTERS, UnitsConfig(kind="char"))
        before, start = held(), time.perf_counter()
        heard = trainable(part, units, 20.0)
        label_entropy([heard], units)
        assert heard.count == count
        looked = time.perf_counter() - start
        endless = iter(TrainingBatches([heard], units, AugmentConfig(), batch_seconds=60, seed=0))
        start = time.perf_counter()
        next(endless)
        first, start = time.perf_counter() - start, time.perf_counter()
        for _ in islice(endless, batches):
            pass
        return peak() - before, looked, first, batches / (time.perf_counter() - start)


def many(small: Path, count: int, folder: Path) -> Prepared:
    """A part with `count` cuts of the small part's features, each with an id of its own."""
    for file in small.iterdir():
        if file.name != CUTS:
            os.symlink(file, folder / file.name)
    with gzip.open(small / CUTS, "rt") as source:
        lines = list(source)
    with gzip.open(folder / CUTS, "wt", compresslevel=1) as out:
        for number, line in enumerate(islice(cycle(lines), count)):
            out.write(line.replace('{"id": "', f'{{"id": "{number}-', 1))
    written = Written.read(read_json(small / "prepared.json"), "prepared.json")
    sizes = {**written.bytes, CUTS: (folder / CUTS).stat().st_size}
    (folder / "prepared.json").unlink()
    summary = written.summary.model_copy(update={"utterances": count})
    about = written.model_copy(update={"bytes": sizes, "summary": summary})
    write_json(folder / "prepared.json", about.model_dump())
    return Prepared(folder, CONFIG)


def held() -> float:
    """MiB that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024**2


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    typer.run(main)
