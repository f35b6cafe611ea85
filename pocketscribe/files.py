"""Files are written beside and renamed, so that a reader never sees half of one."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from pocketscribe.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` (a file or a folder); renames it to `path` on success.

    On an exception the temporary path is removed and `path` stays as it was.

    Raises:
        UserError: `path` is there and is not what was written before: it would be lost.
    """
    path = path.absolute()  # "." too has a name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    # The suffix is kept: soundfile and matplotlib choose the format by it.
    beside = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    _remove(beside)
    try:
        try:
            yield beside
        finally:  # files are never moved aside, and a folder of many need not be listed for each
            if beside.is_dir():
                restore_interrupted(path)
        _check_replaceable(path, beside)
        if path.is_dir() and beside.is_dir():  # a folder cannot be renamed over a full one
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            _remove(old)  # of an earlier process with this one's number
            path.rename(old)
            beside.rename(path)
            _remove(old)
        else:
            _open_to_all(beside)
            beside.replace(path)
    finally:
        _remove(beside)


def _check_replaceable(old: Path, new: Path) -> None:
    """Refuses a file for a folder, a folder for a file, and the loss of anything in a folder."""
    if old.exists() and old.is_dir() != new.is_dir():
        kind = "folder" if old.is_dir() else "file"
        raise UserError(f"{old}: is a {kind} already; choose another place, or delete it")
    if old.is_dir():
        lost = {p.name for p in old.iterdir()} - {p.name for p in new.iterdir()}
        if lost:
            raise UserError(
                f"{old}: holds {min(lost)!r}, which would be lost; "
                "choose another folder, or empty this one"
            )


def restore_interrupted(folder: Path) -> None:
    """Tidies up after processes that were killed while they were `replacing` a folder.

    What they had moved aside comes back where nothing took its place.
    """
    for left in folder.parent.glob(f".{escape(folder.name)}.*"):
        if left.suffix == ".old" and not folder.exists():
            left.rename(folder)
        elif _is_left(left):
            _remove(left)


def sweep(folder: Path) -> None:
    """Removes from `folder` what processes that are no more had begun beside its real names."""
    for left in folder.glob(".*.tmp*"):
        if _is_left(left):
            _remove(left)


def _is_left(path: Path) -> bool:
    """Whether the process that named this file or folder after itself is no more."""
    found = re.search(r"\.(\d+)\.(old|tmp)", path.name)
    if found is None or os.name != "posix":  # elsewhere to ask would be to kill
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's; no process has such a number
        pass
    return False


def _open_to_all(path: Path) -> None:
    """To all whom the umask lets: safetensors writes for the owner alone, a model is for others."""
    if path.is_file():
        umask = os.umask(0)
        os.umask(umask)
        path.chmod(0o666 & ~umask)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises UserError where the file is missing or is not JSON."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    return parse_json(text, str(path))


def parse_json(text: str, source: str) -> Any:
    """Plain data from JSON that came from `source`.

    Raises:
        UserError: it is not JSON, is nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: not readable as JSON ({error})") from None
