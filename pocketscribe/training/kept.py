"""What a teacher said, on disk: a later epoch reads it instead of running the teacher again.

One SQLite file, one row an utterance, version and chunking; a row holds float16 numbers in the
safetensors format. A killed write leaves the rows before it.

Dimensions as in teacher.py.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pocketscribe.errors import UserError
from pocketscribe.losses import Nodes
from pocketscribe.models import Chunking, Recogniser
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.batches import Batch
from pocketscribe.training.teacher import Said, Teacher

PER_ROW = ("contexts", "share", "lattice")  # what there is of each node of a row
WAIT_SECONDS = 60.0  # for another process that is writing


class Kept(nn.Module):
    """A teacher whose answers are kept; called like one.

    What is answered is always what a file would hold, rounded to float16, so that a run that was
    killed, and finds more on disk, ends as one that was not.
    """

    def __init__(self, teacher: Teacher, path: Path, made_by: Mapping[str, Any]) -> None:
        """`made_by` says all that answers depend on: the teacher, the speech, what is asked.

        Raises:
            UserError: the file was made by something else, or is none of ours.
        """
        super().__init__()
        self.teacher, self.path = teacher, path
        self.config = teacher.config
        self.asked = self.found = 0
        try:
            self._file = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute("CREATE TABLE IF NOT EXISTS made_by (what TEXT PRIMARY KEY)")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS said (name TEXT PRIMARY KEY, numbers BLOB)"
            )
            told = json.dumps(made_by, sort_keys=True)
            before = self._file.execute("SELECT what FROM made_by").fetchone()
            if before is None:
                self._file.execute("INSERT OR IGNORE INTO made_by VALUES (?)", (told,))
        except sqlite3.Error as error:
            raise UserError(f"{path}: not a file of kept answers ({error}); delete it") from None
        if before is not None and before[0] != told:
            raise UserError(
                f"{path}: kept of {_difference(before[0], made_by)}; delete the file, and the "
                "teacher is asked again"
            )

    @property
    def model(self) -> Recogniser:
        """The teacher's. (A module of ours besides, it would go into training with us.)"""
        return self.teacher.model

    def forward(self, batch: Batch, chunking: Chunking, contexts: Tensor | None) -> Said:
        """As `Teacher.forward`; asks the teacher only if an utterance is new to the file."""
        names = [f"{name} {self.teacher.hears_by(chunking)}" for name in batch.ids]
        rows = [self._read(name) for name in names]
        self.asked += len(rows)
        if any(row is None for row in rows):
            said = self.teacher(batch, chunking, contexts)
            fresh = _rows(said, batch.frames // FACTOR)
            new = {n: f for n, row, f in zip(names, rows, fresh, strict=True) if row is None}
            self._write(new)
            rows = [row or f for row, f in zip(rows, fresh, strict=True)]
        else:
            self.found += len(rows)
        kept = [row for row in rows if row is not None]
        return _batch(kept, batch.features.device, batch.targets.shape[1])

    def measures(self) -> dict[str, float]:
        """The share of utterances for which the teacher did not run."""
        return {"kept": self.found / max(self.asked, 1)}

    def _read(self, name: str) -> dict[str, Tensor] | None:
        with self._told("readable"):
            found = self._file.execute("SELECT numbers FROM said WHERE name = ?", (name,))
            row = found.fetchone()
            return None if row is None else load(row[0])

    def _write(self, new: Mapping[str, dict[str, Tensor]]) -> None:
        packed = [(name, save(numbers)) for name, numbers in new.items()]
        with self._told("writable"):
            self._file.execute("BEGIN IMMEDIATE")
            self._file.executemany("INSERT OR IGNORE INTO said VALUES (?, ?)", packed)
            self._file.execute("COMMIT")

    @contextmanager
    def _told(self, able: str) -> Iterator[None]:
        """What SQLite finds, as one line."""
        try:
            yield
        except sqlite3.OperationalError as error:  # a lock, a disk
            raise UserError(f"{self.path}: not {able} now ({error})") from None
        except (SafetensorError, sqlite3.DatabaseError):
            raise UserError(f"{self.path}: damaged; delete the file") from None


def _difference(before: str, made_by: Mapping[str, Any]) -> str:
    """What is not as it was: the first such key, in words."""
    old = json.loads(before)
    changed = next((key for key in made_by if old.get(key) != made_by[key]), "another")
    return f"another {changed}"


def _rows(said: Said, frames: Tensor) -> list[dict[str, Tensor]]:
    """Each utterance's part of an answer, without padding and as it is kept."""
    rows: list[dict[str, Tensor]] = []
    for b, count in enumerate(frames.tolist()):
        row: dict[str, Tensor] = {}
        if said.nodes is not None and said.lattice is not None:
            real = (said.nodes.share[b] > 0).any(1)
            row["time"] = said.nodes.time[b][real].short()
            row["contexts"] = said.nodes.contexts[b][real].short()
            row["share"] = said.nodes.share[b][real].half()
            row["lattice"] = said.lattice[b][real].half()
        if said.ctc is not None:
            row["ctc"] = said.ctc[b, :count].half()
        if said.encoded is not None:
            row["encoded"] = said.encoded[b, :count].half()
        rows.append({key: value.cpu().contiguous() for key, value in row.items()})
    return rows


def _batch(rows: Sequence[Mapping[str, Tensor]], device: torch.device, labels: int) -> Said:
    """An answer for a batch out of its utterances' parts, padded again.

    Contexts beyond the batch's most labels are those of a batch with longer targets; they count for
    nothing, and must be places all the same.
    """

    def padded(key: str, dtype: torch.dtype) -> Tensor | None:
        found = [row[key].to(device, dtype) for row in rows if key in row]
        if not found:
            return None
        if key in PER_ROW:  # where all nodes are asked for: as many as the longest target's
            most = max(x.shape[1] for x in found)
            found = [_wide(x, most) for x in found]
        return pad_sequence(found, batch_first=True)

    time, contexts = padded("time", torch.long), padded("contexts", torch.long)
    share = padded("share", torch.float32)
    nodes = None
    if time is not None and contexts is not None and share is not None:
        nodes = Nodes(time, contexts.clamp(max=labels), share)
    lattice, ctc, encoded = (padded(key, torch.float32) for key in ("lattice", "ctc", "encoded"))
    return Said(nodes, lattice, ctc, encoded)


def _wide(x: Tensor, most: int) -> Tensor:
    """Zeros beyond the nodes of a row."""
    return nn.functional.pad(x, (*(0,) * (2 * (x.ndim - 2)), 0, most - x.shape[1]))
