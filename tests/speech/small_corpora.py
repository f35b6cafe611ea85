"""Small corpora, made on the spot."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import MonoCut, Recording, SupervisionSegment

from pocketscribe.errors import UserError
from pocketscribe.speech.corpora import CorpusConfig, items, locate
from pocketscribe.speech.items import Item

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


def row(name: str, text: str = "HELLO", **others: object) -> Row:
    """A row of `write_corpus`, with 0.3 s of audio."""
    return {"id": name, "path": f"{name}.wav", "transcript": text, "seconds": 0.3, **others}


def load(
    corpus: object, split: str = "all", root: Path | None = None, **more: object
) -> list[Item]:
    """All items of a part; `more` are other keys of it."""
    part = CorpusConfig.model_validate({"corpus": str(corpus), "split": split, **more})
    return list(items(part, locate(part, root)))


def refusal(*asked: object, **more: object) -> str:
    """The one line that `load` refuses with."""
    with pytest.raises(UserError) as caught:
        load(*asked, **more)  # type: ignore[arg-type]
    return str(caught.value)


def cut(folder: Path, name: str, seconds: float = 1.0, said: int = 1, rate: int = 16000) -> MonoCut:
    """A cut of a whole recording in which so many things are said one after the other."""
    file = folder / f"{name}.wav"
    soundfile.write(file, sound(seconds, len(name), rate), rate)
    recording = Recording.from_file(file, recording_id=name)
    each = seconds / max(said, 1)
    supervisions = [
        SupervisionSegment(
            f"{name}-{n}", name, n * each, each, text=f"said {n}", speaker="ann", custom={"take": n}
        )
        for n in range(said)
    ]
    return MonoCut(name, 0, seconds, 0, recording=recording, supervisions=supervisions)


def left_behind(out: Path) -> list[str]:
    """What lies in a folder of prepared parts, but for locks."""
    return sorted(p.name for p in out.glob("*") if p.suffix != ".lock")
