"""What is prepared is kept as long as its sources are what they were, whole or not at all."""

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import soundfile

from pocketscribe.errors import UserError
from pocketscribe.speech import prepare as preparing
from pocketscribe.speech.corpora import CorpusConfig
from pocketscribe.speech.prepare import prepare
from small_corpora import MakeCorpus, left_behind, row, sound


def test_what_is_prepared_is_not_prepared_again(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = make_corpus([row("a"), row("b")]), tmp_path / "out"
    first = prepare(CorpusConfig(corpus=str(folder)), None, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}

    def computed(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(preparing, "items", computed)
    # What a recipe does with a part makes no other part of it.
    again = prepare(CorpusConfig(corpus=str(folder), weight=3.0, group="speaker"), None, out)
    assert again.folder == first.folder and again.config.weight == 3.0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert [cut.id for cut in again.cuts] == ["a", "b"]


def test_two_at_once_prepare_it_once(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits, and takes what the first made: it may be open by then."""
    folder, out = make_corpus([row("a"), row("b")]), tmp_path / "out"
    config, computed = CorpusConfig(corpus=str(folder)), []
    first, go = threading.Event(), threading.Event()
    real = preparing._write

    def slowly(*of: object) -> object:
        computed.append(of)
        first.set()
        assert go.wait(30)
        return real(*of)

    monkeypatch.setattr(preparing, "_write", slowly)
    with ThreadPoolExecutor(2) as both:
        one = both.submit(prepare, config, None, out)
        assert first.wait(30)
        two = both.submit(prepare, config, None, out)
        time.sleep(0.3)  # time enough to begin, if it did
        go.set()
        assert one.result().folder == two.result().folder and len(computed) == 1


def test_a_changed_manifest_is_prepared_anew(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    folder, out = make_corpus([row("a", split="train"), row("b", split="dev")]), tmp_path / "out"
    config = CorpusConfig(corpus=str(folder))
    first = prepare(config, None, out)
    manifest = folder / "manifest.tsv"
    manifest.write_text(manifest.read_text().replace("HELLO", "GOODBYE"))
    second = prepare(config, None, out)
    assert second.folder != first.folder
    assert [cut.supervisions[0].text for cut in second.cuts] == ["GOODBYE"]
    folders = {first.folder, second.folder}
    folders |= {prepare(config.model_copy(update={"split": "dev"}), None, out).folder}
    folders |= {prepare(config.model_copy(update={"where": {"id": "a"}}), None, out).folder}
    assert len(folders) == 4


def test_without_a_manifest_changed_files_are_prepared_anew(tmp_path: Path) -> None:
    folder, out = tmp_path / "mine", tmp_path / "mine" / "out"
    folder.mkdir()
    config = CorpusConfig(corpus=str(folder))

    def say(name: str, words: str) -> list[str]:
        soundfile.write(folder / f"{name}.wav", sound(0.3), 16000)
        (folder / f"{name}.txt").write_text(words)
        return [cut.supervisions[0].text for cut in prepare(config, None, out).cuts]

    assert say("a", "one") == ["ONE"]
    assert prepare(config, None, out).folder == prepare(config, None, out).folder
    assert say("a", "three") == ["THREE"]
    assert say("b", "two") == ["THREE", "TWO"]


def test_replaced_audio_is_prepared_anew(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    folder, out = make_corpus([row("a"), row("b", split="dev")]), tmp_path / "out"
    config = CorpusConfig(corpus=str(folder))
    first = prepare(config, None, out)
    soundfile.write(folder / "b.wav", sound(0.7), 16000)  # of another part
    (folder / "notes.tsv").write_text("stray\n")
    assert prepare(config, None, out).folder == first.folder
    soundfile.write(folder / "a.wav", sound(0.7), 16000)
    second = prepare(config, None, out)
    assert second.folder != first.folder
    assert [cut.num_frames for cut in second.cuts] == [70]
    os.utime(folder / "a.wav", ns=(0, 0))
    assert prepare(config, None, out).folder != second.folder


def test_a_stray_table_hides_no_new_recordings(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.tsv").write_text("stray\n")
    for count, name in enumerate(("a", "b"), start=1):
        soundfile.write(folder / f"{name}.wav", sound(0.3), 16000)
        (folder / f"{name}.txt").write_text("one")
        found = prepare(CorpusConfig(corpus=str(folder)), None, tmp_path / "out")
        assert found.summary["utterances"] == count


def test_one_folder_by_many_names_is_prepared_once(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_corpus([row("a")])
    monkeypatch.chdir(folder)
    names = (".", "./", "../mine", str(folder), f"{folder}/")
    made = {prepare(CorpusConfig(corpus=name), None, tmp_path / "out").folder for name in names}
    made |= {prepare(CorpusConfig(corpus="mine"), tmp_path, tmp_path / "out").folder}
    assert [path.name[:11] for path in made] == ["mine-train-"]


def test_a_failure_leaves_nothing(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CorpusConfig(corpus=str(make_corpus([row("a"), row("b")])))
    with monkeypatch.context() as broken:

        def full(*_: object) -> None:
            raise OSError("no space left on device")

        broken.setattr(preparing.LilcomChunkyWriter, "write", full)
        with pytest.raises(UserError, match=r"mine-train-.*: cannot be written \(no space"):
            prepare(config, None, tmp_path / "out")
    assert left_behind(tmp_path / "out") == []
    assert prepare(config, None, tmp_path / "out").summary["utterances"] == 2


def test_what_was_damaged_since_is_one_line(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    """EOFError, as a cut-off gzip file raises it, would pass for the user's wish to stop."""
    config = CorpusConfig(corpus=str(make_corpus([row(f"u{n}") for n in range(20)])))
    prepared = prepare(config, None, tmp_path / "out")
    cuts, features = prepared.folder / "cuts.jsonl.gz", prepared.folder / "features.lca"
    whole = cuts.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for damaged in (whole[: len(whole) // 2], bytes(flipped), b"x" * len(whole)):
        cuts.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cuts\.jsonl\.gz is .*; delete the folder"):
            list(prepared.cuts)
    cuts.write_bytes(whole)
    assert len(list(prepared.cuts)) == 20
    features.write_bytes(features.read_bytes()[:-1])
    for _ in range(2):
        with pytest.raises(UserError, match=r"features\.lca is not as it was written; delete"):
            list(prepared.cuts)
        features.unlink(missing_ok=True)


_KILLED = """
import os, signal, sys
from pathlib import Path
from pocketscribe.speech import items as listening
from pocketscribe.speech import prepare as preparing
from pocketscribe.speech.corpora import CorpusConfig

def items(*asked, real=preparing.items):
    for number, item in enumerate(real(*asked)):
        if number == 100:  # one group is written, and the next is not
            os.kill(os.getpid(), signal.SIGKILL)
        yield item

preparing.items = items
preparing.prepare(CorpusConfig(corpus=sys.argv[1]), None, Path(sys.argv[2]))
"""


def test_a_kill_leaves_nothing_that_looks_finished(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    folder, out = make_corpus([row(f"{n:03d}", seconds=0.1) for n in range(120)]), tmp_path / "out"
    command = [sys.executable, "-c", _KILLED, str(folder), str(out)]
    assert subprocess.run(command, check=False).returncode == -9
    assert all(name.startswith(".") for name in left_behind(out))
    assert list(out.rglob("features.lca")) and not list(out.rglob("prepared.json"))
    (out / f".another.{os.getpid()}.tmp").mkdir()
    prepared = prepare(CorpusConfig(corpus=str(folder)), None, out)
    # What the killed one had begun is gone; what a living process writes stays.
    assert left_behind(out) == [f".another.{os.getpid()}.tmp", prepared.folder.name]
    assert prepared.summary["utterances"] == 120
    assert sum(len(cut.load_features()) for cut in prepared.cuts) == 1200


def test_a_name_that_is_no_text_is_refused_and_the_rest_is_not(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    source = make_corpus([row("one")])
    folder = tmp_path / "folder"
    folder.mkdir()
    [sound] = source.rglob("*.wav")
    for name in (b"fine.wav", b"caf\xe9.wav"):
        path = folder / os.fsdecode(name)
        shutil.copy(sound, path)
        path.with_suffix(".txt").write_text("ONE")
    prepared = prepare(CorpusConfig(corpus=str(folder), split="all"), None, tmp_path / "out", 1.0)
    assert [cut.id for cut in prepared.cuts] == ["fine.wav"]
    listed = (prepared.folder / "bad.tsv").read_text(encoding="utf-8")
    assert "caf\ufffd.wav\tits name is not UTF-8: rename the file" in listed


def test_no_name_reaches_a_shell_and_sphere_files_are_heard(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    """Lhotse reads .sph by a command line with the name in it."""
    names = ["plain.sph", f"a;touch {tmp_path}".replace("/", "|") + ";.sph", "b;touch ran;.SPH"]
    rows = [{"id": n, "path": n, "transcript": "HELLO"} for n in names]
    folder = make_corpus(rows)
    for number, name in enumerate(names):
        soundfile.write(folder / name, sound(0.3, number), 16000, "PCM_16", format="NIST")
    before = set(Path.cwd().iterdir())
    prepared = prepare(CorpusConfig(corpus=str(folder)), None, tmp_path / "out", 1.0)
    assert prepared.summary["utterances"] == 3
    assert set(Path.cwd().iterdir()) == before


def test_a_row_that_names_no_file_is_one_bad_row(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    """Such as where columns are swapped, and a path is a sentence longer than a name may be."""
    folder = make_corpus([row("one"), {"id": "two", "path": "A " * 200, "transcript": "b.wav"}])
    prepared = prepare(CorpusConfig(corpus=str(folder)), None, tmp_path / "out", 1.0)
    assert prepared.summary["utterances"] == 1 and prepared.summary["bad"] == 1
