"""Lhotse's Shar and WebDataset's tar archives, in a folder and by their addresses."""

import io
import json
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from pocketscribe.errors import UserHint
from pocketscribe.speech import archives
from pocketscribe.speech.archives import LARGEST
from pocketscribe.speech.corpora import CorpusConfig, fingerprint, locate
from pocketscribe.speech.features import fbank
from pocketscribe.speech.held_out import HeldOut
from pocketscribe.speech.items import RefusedError, listen
from pocketscribe.speech.prepare import prepare
from small_corpora import cut, load, refusal, sound

QUANTISATION = 0.11  # of features on disk


@pytest.fixture
def store(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which a server gives what is in it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    folder = tmp_path / "store"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def pairs(file: Path, files: dict[str, bytes]) -> Path:
    """A tar archive of these files."""
    with tarfile.open(file, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file


def wav(samples: np.ndarray, rate: int = 16000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def index(folder: Path, **archives: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "shards.json").write_text(json.dumps(archives))
    return folder


def test_shar(tmp_path: Path) -> None:
    cuts = [cut(tmp_path, name) for name in ("one", "seven", "eleven")]
    for split, part in (("train", cuts[:2]), ("test", cuts[2:])):
        folder = tmp_path / "mine" / split
        folder.mkdir(parents=True)
        CutSet(part).to_shar(folder, fields={"recording": "wav"})
    for item, original in zip(load(tmp_path / "mine", "train"), cuts, strict=False):
        assert item.id == f"train/{original.id}-0" and item.text == "said 0"
        np.testing.assert_allclose(item.read(), original.load_audio()[0], atol=1e-4)
    assert [i.id for i in load(tmp_path / "mine")] == [
        "train/one-0",
        "train/seven-0",
        "test/eleven-0",
    ]
    part = CorpusConfig(corpus=str(tmp_path / "mine"), split="test")
    before = fingerprint(part, locate(part, None), HeldOut(()))
    archive = next((tmp_path / "mine/test").glob("*.tar"))
    archive.write_bytes(archive.read_bytes() + b"\0")
    assert fingerprint(part, locate(part, None), HeldOut(())) != before


def test_shar_without_splits_is_split_up(tmp_path: Path) -> None:
    """Each utterance keeps its own sound, though the sound of most is passed over."""
    cuts = {f"{n:03d}-0": cut(tmp_path, f"{n:03d}", 0.2 + n / 100) for n in range(20)}
    (tmp_path / "mine").mkdir()
    CutSet(cuts.values()).to_shar(tmp_path / "mine", fields={"recording": "wav"}, shard_size=7)
    with pytest.warns(UserHint, match="2 of its 20 utterances are dev"):
        parts = {split: load(tmp_path / "mine", split) for split in ("train", "dev", "test")}
    assert [len(found) for found in parts.values()] == [16, 2, 2]
    found = [item for part in parts.values() for item in part]
    assert sorted(item.id for item in found) == sorted(cuts)
    for item in found:
        np.testing.assert_allclose(item.read(), cuts[item.id].load_audio()[0], atol=1e-4)


def test_shar_by_its_address(tmp_path: Path, store: tuple[Path, str]) -> None:
    folder, address = store
    cuts = [cut(tmp_path, f"{n:02d}") for n in range(5)]
    written = CutSet(cuts).to_shar(folder, fields={"recording": "wav"}, shard_size=2)
    assert len(written["recording"]) == 3
    there = {
        field: [f"{address}/{Path(path).name}" for path in paths]
        for field, paths in written.items()
    }
    found = load(index(tmp_path / "mine", **there))
    assert [item.id for item in found] == [f"{n:02d}-0" for n in range(5)]
    for item, original in zip(found, cuts, strict=True):
        np.testing.assert_allclose(item.read(), original.load_audio()[0], atol=1e-4)


def test_pairs_in_tar_archives(tmp_path: Path, store: tuple[Path, str]) -> None:
    there, address = store
    here = tmp_path / "mine"
    x, y, z = sound(0.3, 1), sound(0.4, 2, 8000), sound(0.3, 3)
    first = {
        "read me.md": b"about this",
        "talks/a.wav": wav(x),
        "talks/a.txt": b"one two\n",
        "talks/b.json": json.dumps({"text": "three", "speaker": "ann", "take": 2}).encode(),
        "talks/b.wav": wav(y, 8000),
    }
    pairs(there / "000.tar", first)
    index(here, tar=[f"{address}/000.tar", "001.tar"])
    pairs(here / "001.tar", {"c.wav": wav(z), "c.txt": b"four"})
    a, b, c = load(here)
    assert [(i.id, i.text.strip(), i.speaker) for i in (a, b, c)] == [
        ("talks/a", "one two", ""),
        ("talks/b", "three", "ann"),
        ("c", "four", ""),
    ]
    assert b.columns["take"] == "2"
    np.testing.assert_array_equal(a.read(), x)
    assert len(b.read()) == 6400
    np.testing.assert_array_equal(c.read(), z)
    # As `tar cf 001.tar .` names them, on a Mac with its own files beside ours.
    pairs(
        here / "001.tar", {"./.DS_Store": b"", "./._c.wav": b"", "./c.wav": wav(z), "./c.txt": b"4"}
    )
    assert [(i.id, i.text.strip()) for i in load(here)][2:] == [("c", "4")]
    pairs(here / "001.tar", {"C.WAV": wav(z), "C.TXT": b"loud"})
    assert [(i.id, i.text.strip()) for i in load(here)][2:] == [("C", "loud")]
    pairs(here / "001.tar", {"c.wav": wav(z), "c.txt": b"4"})
    # Without an index: all archives of the folder.
    (here / "shards.json").unlink()
    pairs(here / "000.tar", first)
    assert [item.id for item in load(here)] == ["talks/a", "talks/b", "c"]


def test_what_lies_in_archives_is_not_copied(tmp_path: Path) -> None:
    x = sound(0.5)
    (tmp_path / "mine/train").mkdir(parents=True)
    broken = {"b.wav": b"no audio", "b.txt": b"two"}
    files = {
        f"{n}.{end}": data for n in range(30) for end, data in (("wav", wav(x)), ("txt", b"a"))
    }
    pairs(tmp_path / "mine/train/0.tar", {**files, **broken})
    prepared = prepare(CorpusConfig(corpus=str(tmp_path / "mine")), None, tmp_path / "out")
    assert prepared.summary == {"utterances": 30, "seconds": 15.0, "bad": 1}
    assert "b: not readable as audio" in (prepared.folder / "bad.tsv").read_text()
    for made in prepared.cuts:
        np.testing.assert_allclose(made.load_features(), fbank(x), atol=QUANTISATION)
    assert not list((prepared.folder / "audio").iterdir())


def test_archives_that_are_not_as_they_should_be(
    tmp_path: Path, store: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = store
    mine = tmp_path / "mine"
    here = pairs(folder / "a.tar", {"a.wav": wav(sound(1.0)), "a.txt": b"one"})
    here.write_bytes(here.read_bytes()[:9000])
    said = f"{address}/a.tar: not a tar archive, or a damaged one"
    assert said in refusal(index(mine, tar=[f"{address}/a.tar"]))
    gone = refusal(index(mine, tar=[f"{address}/none.tar"]))
    assert f"{address}/none.tar: not a tar archive" in gone and "404" in gone
    assert "404" in refusal(
        index(mine, cuts=[f"{address}/c.jsonl.gz"], recording=[f"{address}/r.tar"])
    )
    for about in (b"[1]", b'{"text": "\\ud800"}', b"{"):
        pairs(folder / "j.tar", {"j.wav": wav(sound(0.2)), "j.json": about})
        assert "beside the audio of j" in refusal(index(mine, tar=[f"{address}/j.tar"]))
    # Nothing in an index is ever run.
    for command in (f"pipe:touch {tmp_path}/ran", f"pipe:touch {tmp_path}/ran; echo a://b"):
        for named in ({"tar": [command]}, {"cuts": [command]}):
            assert "is a command: none is run" in refusal(index(mine, **named))
        named = {"cuts": ["c.jsonl.gz"], "recording": [command]}
        assert "is a command: none is run" in refusal(index(mine, **named))
    assert not (tmp_path / "ran").exists()
    assert "'cuts' and 'recording' must name as many" in refusal(
        index(mine, cuts=["a"], recording=["b", "c"])
    )
    for both in ({}, {"cuts": ["a"], "tar": ["b"]}):
        assert "name archives by 'cuts'" in refusal(index(mine, **both))
    monkeypatch.setitem(sys.modules, "smart_open", None)
    assert "pip install 'pocketscribe[cloud]'" in refusal(index(mine, tar=["s3://a/b.tar"]))


def test_a_file_beyond_all_speech_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = index(tmp_path / "mine", tar=["a.tar"])
    member = tarfile.TarInfo("a.wav")
    member.size = LARGEST + 1
    (folder / "a.tar").write_bytes(member.tobuf() + bytes(10240))
    assert f"a.wav has {LARGEST + 1:,} bytes" in refusal(folder)


def test_names_with_dots_are_whole(tmp_path: Path) -> None:
    said = {}
    for name in ("a1", "take.1", "take.2", "v1.0-3"):
        said |= {f"{name}.wav": wav(sound(0.5)), f"{name}.txt": name.upper().encode()}
    said |= {"take.1.npy": b"something else", "._a1.wav": b"a Mac's"}
    mine = index(tmp_path / "mine", tar=["a.tar"])
    pairs(mine / "a.tar", said)
    assert {i.id: i.text for i in load(mine)} == {
        name: name.upper() for name in ("a1", "take.1", "take.2", "v1.0-3")
    }


def test_what_is_too_long_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes of silence are a few kilobytes of FLAC."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(130 * 16000), 16000, format="FLAC")
    mine = index(tmp_path / "mine", tar=["a.tar"])
    pairs(mine / "a.tar", {"a.flac": file.getvalue(), "a.txt": b"one"})
    monkeypatch.setattr(archives, "audio_blocks", lambda file: pytest.fail("it was decoded"))
    [item] = load(mine)
    with pytest.raises(RefusedError, match=r"130\.00 s long"):
        listen(item, 120.0)
