"""`transcribe` of many things at once."""

import io
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from rich.console import Console

import pocketscribe
from pocketscribe.api import Model
from pocketscribe.batch import transcribe_all
from pocketscribe.decoding import streaming
from pocketscribe.errors import UserError
from talkative import digits

PIPE = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def model(talkative: Path) -> Model:
    return pocketscribe.load(talkative)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two utterances, one of them deeper, one bad file between them, and one that is no audio."""
    folder = tmp_path / "audio"
    (folder / "deep").mkdir(parents=True)
    soundfile.write(folder / "a.wav", digits()[0], 16000)
    soundfile.write(folder / "deep" / "c.FLAC", digits()[1], 16000)
    (folder / "b.mp3").write_bytes(b"no audio at all")
    (folder / "notes.txt").write_text("nothing to hear")
    return folder


def test_a_bad_file_stops_nothing(
    model: Model, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert transcribe_all(model, [folder], "text", None, PIPE) == 1
    said = capsys.readouterr()
    expected = model.transcribe([folder / "a.wav", folder / "deep" / "c.FLAC"])
    assert said.out.splitlines() == [
        f"{folder / 'a.wav'}: {expected[0].text}",
        f"{folder / 'deep' / 'c.FLAC'}: {expected[1].text}",
    ]
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"pocketscribe: {folder / 'b.mp3'}: not readable as audio")


@pytest.mark.parametrize("form", ["text", "json", "srt", "vtt"])
def test_a_file_an_input(
    model: Model, folder: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b.mp3").unlink()
    out = tmp_path / "out"
    assert transcribe_all(model, [folder], form, out, PIPE) == 0
    assert capsys.readouterr().out == ""
    suffix = "txt" if form == "text" else form
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.*")}
    assert names == {f"a.{suffix}", f"deep/c.{suffix}"}
    said, text = model.transcribe(folder / "a.wav"), (out / f"a.{suffix}").read_text()
    if form == "json":
        assert json.loads(text)["text"] == said.text
    else:
        assert said.words[0].word in text
        assert {"text": said.text, "srt": "1\n00:00", "vtt": "WEBVTT\n\n"}[form] in text


def test_what_was_really_said_is_not_replaced(model: Model, folder: Path, tmp_path: Path) -> None:
    """Transcripts beside audio are what people train on."""
    (folder / "b.mp3").unlink()
    (folder / "deep" / "c.txt").write_text("THIS WAS SAID")
    with pytest.raises(UserError, match=r"c\.txt is beside its audio already"):
        transcribe_all(model, [folder], "text", folder, PIPE)
    assert not (folder / "a.txt").exists(), "nothing was begun"
    transcribe_all(model, [folder], "srt", folder, PIPE)  # which is nobody's yet
    transcribe_all(model, [folder], "text", tmp_path / "out", PIPE)
    transcribe_all(model, [folder], "text", tmp_path / "out", PIPE)
    assert (folder / "deep" / "c.txt").read_text() == "THIS WAS SAID"


def test_transcripts_are_not_lost(model: Model, folder: Path, tmp_path: Path) -> None:
    soundfile.write(folder / "a.ogg", digits()[0], 16000)
    with pytest.raises(UserError, match=r"a\.ogg and .*a\.wav would both be a"):
        transcribe_all(model, [folder], "text", tmp_path / "out", PIPE)
    assert not (tmp_path / "out").exists()


def test_standard_input(
    model: Model,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for data, bad in (((folder / "a.wav").read_bytes(), 0), (b"no audio", 1), (b"", 1)):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        assert transcribe_all(model, [Path("-")], "text", None, PIPE) == bad
        said = capsys.readouterr()
        if bad:
            assert said.err.startswith("pocketscribe: standard input: not readable as audio")
        else:
            assert said.out == model.transcribe(folder / "a.wav").text + "\n"


def test_a_terminal_shows_the_text_while_it_grows(
    model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(streaming, "SHOW_SECONDS", 0.0)
    screen = Console(file=io.StringIO(), force_terminal=True, width=200)
    path = folder / "long.wav"
    soundfile.write(path, np.concatenate(digits()), 16000)
    assert transcribe_all(model, [path], "text", None, screen) == 0
    assert isinstance(screen.file, io.StringIO)
    shown, said = screen.file.getvalue(), capsys.readouterr().out.strip()
    assert shown.count(said[:5]) > 3
    assert PIPE.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_name_that_is_no_text(
    model: Model, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.wav")
    shutil.copy(next(folder.rglob("*.wav")), odd)
    for form, out in (("json", tmp_path / "out"), ("text", None)):
        assert transcribe_all(model, [odd, folder], form, out, Console(quiet=True)) >= 0
    assert "caf\ufffd.wav: " in capsys.readouterr().out
    [written] = [p for p in (tmp_path / "out").iterdir() if "caf" in p.name]
    assert json.loads(written.read_text())["path"].endswith("caf\ufffd.wav")
