"""Speech in tar archives, read from front to back: on a disk, or where it lies in an object store.

Lhotse's Shar has cuts.000000.jsonl.gz beside recording.000000.tar; WebDataset has a.flac beside
a.txt or a.json within a tar. They lie in a folder, or a shards.json in it says where they lie:

    {"cuts": ["s3://mine/cuts.000000.jsonl.gz"], "recording": ["s3://mine/recording.000000.tar"]}
    {"tar": ["https://example.org/000.tar", "001.tar"]}
"""

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile
from lhotse import CutSet
from lhotse.serialization import open_best
from pydantic import model_validator

from pocketscribe.config import Config
from pocketscribe.errors import UserError, needs_extra
from pocketscribe.files import read_json
from pocketscribe.speech.cut_sets import CUTS, is_command, items_of, why
from pocketscribe.speech.features import audio_blocks
from pocketscribe.speech.items import ALL, Item, split_up
from pocketscribe.speech.manifests import AUDIO_SUFFIXES, json_row

INDEX, SHAR, TARS = "shards.json", f"cuts.[0-9]*{CUTS}", "*.tar"
LARGEST = 1 << 29  # bytes of one file within an archive


class Shards(Config):
    """What shards.json says: paths below its folder, or addresses.

    Attributes:
        cuts, recording: of lhotse's Shar; recordings may lie elsewhere.
        tar: of WebDataset.
    """

    cuts: tuple[str, ...] = ()
    recording: tuple[str, ...] = ()
    tar: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "Shards":
        if bool(self.cuts) == bool(self.tar):
            raise ValueError("name archives by 'cuts' (and 'recording'), or by 'tar'")
        if self.recording and len(self.recording) != len(self.cuts):
            raise ValueError("'cuts' and 'recording' must name as many archives")
        for name in (*self.cuts, *self.recording, *self.tar):
            if is_command(name):
                raise ValueError(f"{name!r} is a command: none is run")
        return self


def archives(file: Path, split: str) -> Iterator[Item]:
    """The folder of `file`; where nothing says what is in a split, it is read twice.

    Raises:
        UserError: an archive is not there, damaged, or of neither kind.
    """
    read = _reader(_shards(file), file.parent)
    if split == ALL:
        return read()
    listed = [replace(item, made=None) for item in read()]  # without their sound
    chosen = {item.id for item in split_up(listed, split, file.parent)}
    return (item for item in read() if item.id in chosen)


def _shards(file: Path) -> Shards:
    folder = file.parent
    if file.name == INDEX:
        return Shards.read(read_json(file), str(file))
    if file.name.endswith(CUTS):
        found = {"cuts": folder.glob(SHAR), "recording": folder.glob("recording.[0-9]*.tar")}
    else:
        found = {"tar": folder.glob(TARS)}
    names = {key: sorted(f.name for f in files) for key, files in found.items()}
    return Shards.read(names, str(folder))


def _reader(shards: Shards, folder: Path) -> Callable[[], Iterator[Item]]:
    def there(names: Iterable[str]) -> list[str]:
        return [name if "://" in name else str(folder / name) for name in names]

    if any("://" in name for name in (*shards.cuts, *shards.recording, *shards.tar)):
        with needs_extra("cloud", f"{folder / INDEX}: archives by their addresses"):
            import smart_open  # noqa: F401
    if shards.tar:
        return partial(_pairs, there(shards.tar), folder)
    fields = {"cuts": there(shards.cuts)}
    if shards.recording:
        fields["recording"] = there(shards.recording)
    return partial(items_of, partial(CutSet.from_shar, fields=fields), folder)


def _pairs(tars: Iterable[str], folder: Path) -> Iterator[Item]:
    for name in tars:
        try:
            with open_best(name, "rb") as file, tarfile.open(fileobj=file, mode="r|*") as archive:
                members = (member for member in archive if member.isfile() and _wanted(member.name))
                for key, group in groupby(members, key=lambda member: _key(member.name)):
                    parts = {_suffix(member.name): _bytes(archive, member) for member in group}
                    if (item := _pair(key, parts, folder)) is not None:
                        yield item
        except (OSError, EOFError, ValueError, tarfile.TarError) as error:
            raise UserError(f"{name}: not a tar archive, or a damaged one ({why(error)})") from None


def _key(name: str) -> str:
    """What the files of one utterance have in common: all up to the last dot of the name."""
    return str(PurePosixPath(name).with_suffix(""))


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _wanted(name: str) -> bool:
    """Sound, or what is said of it; not what a system puts beside files, such as a `._a.flac`."""
    hidden = PurePosixPath(name).name.startswith(".")
    return not hidden and _suffix(name) in (*AUDIO_SUFFIXES, ".txt", ".json")


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > LARGEST:
        raise ValueError(f"{member.name} has {member.size:,} bytes")
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _pair(key: str, parts: dict[str, bytes], folder: Path) -> Item | None:
    """An utterance of the files whose suffixes these are; None where there is no audio in it."""
    audio = next((data for suffix, data in parts.items() if suffix in AUDIO_SUFFIXES), None)
    if audio is None:
        return None
    try:
        row = json_row(parts.get(".json", b"{}"))
        said = parts.get(".txt", b"").decode()
    except ValueError:
        raise ValueError(f"what lies beside the audio of {key} is no text or no object") from None
    said = said or row.get("transcript") or row.get("text") or ""
    made = partial(_decoded, key, audio)
    speaker, seconds = row.get("speaker", ""), _seconds(audio)
    return Item(key, said, speaker, None, made, (folder,), columns=row, seconds=seconds)


def _seconds(audio: bytes) -> float | None:
    """How long a file says it is; None where it is none, which is told when it is read."""
    try:
        return float(soundfile.info(io.BytesIO(audio)).duration)
    except (soundfile.SoundFileError, OverflowError):
        return None


def _decoded(key: str, audio: bytes) -> np.ndarray:
    file = io.BytesIO(audio)
    file.name = key  # for what is told of it
    return np.concatenate(list(audio_blocks(file)))
