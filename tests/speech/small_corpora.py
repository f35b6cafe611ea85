"""Small corpora, made on the spot."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

Row = dict[str, object]
MakeCorpus = Callable[..., Path]  # what the fixture make_corpus gives


def sound(seconds: float, seed: int = 0, rate: int = 16000) -> np.ndarray:
    """Noise in bursts, float32 `[seconds * rate]`: cheap, and no two seeds alike."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    bursts = 0.1 * (1 + np.sin(2 * np.pi * rng.uniform(2, 5) * time))
    return (bursts * rng.standard_normal(time.size)).astype(np.float32).clip(-1, 1)


def write_corpus(folder: Path, rows: Sequence[Row]) -> Path:
    """Writes a manifest.tsv of these rows, and the audio that they ask for.

    A row's keys are columns, but for `seconds` and `rate`, which make its audio; no `seconds`, no
    file. Its split is train where it names none.
    """
    rows = [{"split": "train", **row} for row in rows]
    folder.mkdir()
    columns = dict.fromkeys(k for row in rows for k in row if k not in ("seconds", "rate"))
    lines = ["\t".join(columns)]
    for number, row in enumerate(rows):
        if "seconds" in row:
            rate = int(str(row.get("rate", 16000)))
            samples = sound(float(str(row["seconds"])), number, rate)
            soundfile.write(folder / str(row["path"]), samples, rate)
        lines.append("\t".join(str(row.get(column, "")) for column in columns))
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
