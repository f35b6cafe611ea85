"""Files are written beside and renamed, so that a reader never sees half of one."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from pocketscribe.errors import UserError, one_line

BESIDE = re.compile(r"\.(?P<stem>.*)\.(?P<process>\d+)\.(?P<kind>old|tmp)(?P<suffix>(\.[^.]*)?)")


@contextmanager
def replacing(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` on success.

    A `folder` is there already, and empty. On an exception the temporary path is removed and `path`
    stays as it was. A link is followed.

    Raises:
        UserError: `path` is there and is not what was written before: it would be lost.
    """
    path = path.resolve()  # "." too has a name
    check_place(path, folder=folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    beside = _beside(path, "tmp")
    _remove(beside)
    try:
        if folder:
            beside.mkdir()
        try:
            yield beside
        except (OSError, SafetensorError) as error:  # the latter says so in words alone
            named = getattr(error, "filename", None)
            if named is not None and not Path(named).is_relative_to(beside):
                raise
            why = getattr(error, "strerror", None) or one_line(str(error))
            raise UserError(f"{path}: cannot be written ({why})") from None
        finally:  # files are never moved aside, and a folder of many need not be listed for each
            if folder:
                restore_interrupted(path)
        check_place(path, folder=folder)
        if path.is_dir():  # a folder cannot be renamed over a full one
            check_kept(path, {p.name for p in beside.iterdir()})
            old = _beside(path, "old")
            _remove(old)  # of an earlier process with this one's number
            path.rename(old)
            try:
                beside.rename(path)
            except BaseException:
                old.rename(path)
                raise
            _remove(old)
        else:
            _open_to_all(beside)
            beside.replace(path)
    finally:
        _remove(beside)


def check_place(path: Path, *, folder: bool = False) -> None:
    """Refuses to write a file or a `folder` where anything of another kind is.

    Raises:
        UserError: in one line.
    """
    if path.is_dir() if folder else path.is_file():
        return
    if path.exists():
        kind = "folder" if path.is_dir() else "file" if path.is_file() else "device or a pipe"
        raise UserError(f"{path}: is a {kind} already; choose another place, or delete it")


def check_no_input(out: Path, inputs: Iterable[Path]) -> None:
    """Refuses to write over what is read.

    Raises:
        UserError: in one line.
    """
    for path in inputs:
        if out.exists() and path.exists() and out.samefile(path):
            raise UserError(f"{out}: is what this is made from; choose another place")


def check_kept(folder: Path, names: Collection[str] = ()) -> None:
    """Refuses to replace a folder by one of these `names` where anything else is in it.

    Raises:
        UserError: in one line.
    """
    lost = {p.name for p in folder.iterdir()} - set(names)
    if lost:
        raise UserError(
            f"{folder}: holds {min(lost)!r}, which would be lost; "
            "choose another folder, or empty this one"
        )


def _beside(path: Path, kind: str) -> Path:
    """The name that this process has for what will be `path` ("tmp"), or was ("old").

    The suffix is kept: soundfile and matplotlib choose the format by it.
    """
    return path.with_name(f".{path.stem}.{os.getpid()}.{kind}{path.suffix}")


def restore_interrupted(folder: Path) -> None:
    """Tidies up after processes that were killed while they were `replacing` a folder.

    What they had moved aside comes back where nothing took its place, whoever has their number by
    now: numbers begin anew with a container.
    """
    for left in folder.parent.glob(f".{escape(folder.stem)}.*"):
        found = BESIDE.fullmatch(left.name)
        if found and (found["stem"], found["suffix"]) == (folder.stem, folder.suffix):
            if found["kind"] == "old" and not folder.exists():
                left.rename(folder)
            elif _is_gone(int(found["process"])):
                _remove(left)


def sweep(folder: Path) -> None:
    """Removes from `folder` what processes that are no more had begun beside its real names.

    Whoever writes NAME there holds the lock .NAME.lock meanwhile: processes of other machines, and
    of other containers, have numbers of their own.
    """
    for left in folder.glob(".*.tmp*"):
        found = BESIDE.fullmatch(left.name)
        if found and found["kind"] == "tmp" and _is_gone(int(found["process"])):
            lock = FileLock(folder / f".{found['stem']}{found['suffix']}.lock")
            with suppress(Timeout), lock.acquire(timeout=0):
                _remove(left)


def _is_gone(process: int) -> bool:
    if os.name != "posix":  # elsewhere to ask would be to kill
        return False
    try:
        os.kill(process, 0)
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


def file_digest(path: Path) -> str:
    """SHA-256 of all that a file holds."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_words(path: Path | str) -> str:
    """A path for people and for JSON, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "replace")


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
