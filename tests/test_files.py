"""Files are whole or not there, and nothing of the user's is lost."""

import os
from pathlib import Path

import pytest
from filelock import FileLock
from safetensors import SafetensorError

from pocketscribe.errors import UserError
from pocketscribe.files import (
    check_no_input,
    read_json,
    replacing,
    restore_interrupted,
    sweep,
    write_json,
    write_text,
)

NOBODY = 2**30  # no process has such a number


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def write_folder(path: Path, **files: str) -> None:
    with replacing(path, folder=True) as beside:
        for name, text in files.items():
            (beside / name).write_text(text)


def fail(path: Path, *, as_folder: bool) -> None:
    """Writes half of it."""
    with replacing(path, folder=as_folder) as beside:
        (beside / "a" if as_folder else beside).write_text("half")
        raise RuntimeError


def test_a_file_appears_and_is_replaced_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x.json"
    with replacing(path) as beside:
        beside.write_text("1")
        assert not path.exists()
        assert beside.suffix == ".json"
    assert path.read_text() == "1"
    with pytest.raises(RuntimeError):
        fail(path, as_folder=False)
    assert path.read_text() == "1"
    assert names(path.parent) == ["x.json"]


def test_a_file_is_for_all_whom_the_umask_lets(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        with replacing(tmp_path / "model") as beside:
            beside.touch(0o600)
    finally:
        os.umask(umask)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o640


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_folder(path, a="1", b="1")
    with pytest.raises(RuntimeError):
        fail(path, as_folder=True)
    assert (path / "a").read_text() == "1" and names(path) == ["a", "b"]
    write_folder(path, a="3", b="3", c="3")
    assert (path / "a").read_text() == "3" and names(path) == ["a", "b", "c"]
    assert names(tmp_path) == ["out"]


def test_what_a_killed_process_left_is_no_obstacle(tmp_path: Path) -> None:
    left = tmp_path / f".out.{os.getpid()}.tmp"
    left.mkdir()
    (left / "half").write_text("x")
    write_folder(tmp_path / "out", a="1")
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["a"]
    (tmp_path / "out").rename(tmp_path / f".out.{NOBODY}.old")
    with pytest.raises(RuntimeError):
        fail(tmp_path / "out", as_folder=True)
    assert (tmp_path / "out" / "a").read_text() == "1", "between two renames"
    old = tmp_path / f".out.{os.getpid()}.old"  # of a process that once had this number
    old.mkdir()
    (old / "a").write_text("0")
    write_folder(tmp_path / "out", a="2")
    assert names(tmp_path) == ["out"] and (tmp_path / "out" / "a").read_text() == "2"


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_folder(tmp_path / "out", a="1")
    assert names(tmp_path / "out") == ["a"]


def test_a_folder_with_anything_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home" / "letters").mkdir(parents=True)
    (tmp_path / "home" / "a").write_text("mine")
    with pytest.raises(UserError, match=r"home: holds 'letters', which would be lost"):
        write_folder(tmp_path / "home", a="1")
    assert names(tmp_path / "home") == ["a", "letters"] and names(tmp_path) == ["home"]
    assert (tmp_path / "home" / "a").read_text() == "mine"


def test_the_current_folder_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="holds 'mine'"):
        write_folder(Path("."), a="1")
    assert names(tmp_path) == ["mine"]


def test_a_file_does_not_take_a_folders_place_nor_the_other_way(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="folder: is a folder already"):
        write_text(tmp_path / "folder", "x")
    with pytest.raises(UserError, match="file: is a file already"):
        write_folder(tmp_path / "file", a="1")
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / "file" / "below", "x")
    assert names(tmp_path) == ["file", "folder"]


def test_what_it_is_not_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    for name, as_folder, kind in (
        ("folder", False, "folder"),
        ("file", True, "file"),
        ("pipe", False, "device or a pipe"),
    ):
        with (
            pytest.raises(UserError, match=f"{name}: is a {kind} already"),
            replacing(tmp_path / name, folder=as_folder),
        ):
            pytest.fail("no work is begun")
    assert names(tmp_path) == ["file", "folder", "pipe"]


def test_what_cannot_be_written_is_told_by_its_own_name(tmp_path: Path) -> None:

    def full(error: Exception) -> None:
        with replacing(tmp_path / "x") as beside:
            beside.write_text("half")
            raise error

    for error in (OSError(28, "No space left on device"), SafetensorError("I/O error: no space")):
        with pytest.raises(UserError, match=r"/x: cannot be written \(.*space"):
            full(error)
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "x"):
        (tmp_path / "other").read_text()
    with pytest.raises(UserError, match=r"nowhere/x: cannot be written \(Not a directory"):
        write_text(Path("/dev/null/nowhere/x"), "")
    assert names(tmp_path) == []


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real").write_text("1")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "real")
    write_text(tmp_path / "link", "2")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "far" / "real").read_text() == "2"
    assert names(tmp_path / "far") == ["real"]


def test_what_another_folder_left_is_not_this_ones(tmp_path: Path) -> None:
    write_folder(tmp_path / f".model.{NOBODY}.old.v2", a="v2")
    restore_interrupted(tmp_path / "model")
    assert names(tmp_path) == [f".model.{NOBODY}.old.v2"]
    restore_interrupted(tmp_path / "model.v2")
    assert names(tmp_path) == ["model.v2"]
    write_folder(tmp_path / f".model.{os.getpid()}.old", a="in another container")
    restore_interrupted(tmp_path / "model")
    assert names(tmp_path) == ["model", "model.v2"]


def test_json_round_trip_keeps_every_letter(tmp_path: Path) -> None:
    data = {"text": "naïve ▁…", "numbers": [1, 2.5, None]}
    write_json(tmp_path / "x.json", data)
    assert read_json(tmp_path / "x.json") == data
    assert "naïve" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_unreadable_json_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.json: no such file"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"x\.json: not readable as JSON"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"x\.json: not readable as JSON"):
        read_json(tmp_path / "x.json")
    for text in ("[" * 10**5, "9" * 5000):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UserError, match=r"x\.json: not readable as JSON"):
            read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match="not readable as JSON"):
        read_json(tmp_path)


def test_a_kill_between_two_renames_is_settled(tmp_path: Path) -> None:
    """Any moment of replacing a folder, by a process that is no more."""
    folder, old, beside = (
        tmp_path / n for n in ("out", f".out.{NOBODY}.old", f".out.{NOBODY}.tmp")
    )
    for present, kept in (
        ((folder, beside), folder),  # while it wrote
        ((old, beside), old),  # between the renames
        ((folder, old), folder),  # before it tidied up
        ((folder,), folder),
        ((beside,), None),  # nothing was there before
        ((), None),
    ):
        for path in present:
            path.mkdir()
            (path / "a").write_text(path.name)
        restore_interrupted(folder)
        assert names(tmp_path) == (["out"] if kept else [])
        if kept:
            assert (folder / "a").read_text() == kept.name
            (folder / "a").unlink()
            folder.rmdir()


def test_what_another_machine_writes_under_its_lock_is_not_swept(tmp_path: Path) -> None:
    """A process number says nothing of processes elsewhere."""
    for name in ("mine", "theirs"):
        (tmp_path / f".{name}.{NOBODY}.tmp").mkdir()
    with FileLock(tmp_path / ".theirs.lock"):
        sweep(tmp_path)
        assert [p.name for p in tmp_path.glob("*.tmp")] == [f".theirs.{NOBODY}.tmp"]
    sweep(tmp_path)
    assert not list(tmp_path.glob("*.tmp"))


def test_nothing_is_written_over_what_it_is_made_from(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "text")
    check_no_input(tmp_path / "new", [tmp_path / "text", tmp_path / "gone"])
    for out in ("text", "link"):
        with pytest.raises(UserError, match=f"{out}: is what this is made from"):
            check_no_input(tmp_path / out, [tmp_path / "gone", tmp_path / "text"])
