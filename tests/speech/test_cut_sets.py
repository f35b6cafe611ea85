"""Lhotse's cut sets and its recipes are corpora as they are."""

import contextlib
import gzip
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, SupervisionSegment
from lhotse.cut import Cut

from pocketscribe.errors import UserHint
from pocketscribe.speech.corpora import CorpusConfig, fingerprint, locate
from pocketscribe.speech.held_out import HeldOut
from pocketscribe.speech.items import EmptyPartError
from pocketscribe.speech.prepare import prepare
from small_corpora import cut, load, refusal, sound


def test_a_cut_set(tmp_path: Path) -> None:
    cuts = [cut(tmp_path, "one"), cut(tmp_path, "three", 1.5, 3, 8000), cut(tmp_path, "no", said=0)]
    CutSet(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    one, *three, none = load(tmp_path)
    assert (one.id, one.text, one.speaker) == ("one-0", "said 0", "ann")
    assert one.columns == {"speaker": "ann", "take": "0"}
    assert one.audio == tmp_path / "one.wav"
    # Several supervisions are several utterances: each is what was said in its time.
    assert [(i.id, i.text) for i in three] == [(f"three-{n}", f"said {n}") for n in range(3)]
    whole, _ = soundfile.read(tmp_path / "three.wav", dtype="float32")
    assert [i.files for i in three] == [(tmp_path / "three.wav",)] * 3
    assert [len(i.read()) for i in three] == [8000] * 3  # at 16 kHz
    level = [np.abs(i.read()[2000:6000]).mean() for i in three]
    parts = whole.reshape(3, 4000)[:, 1000:3000]
    np.testing.assert_allclose(level, np.abs(parts).mean(axis=1), rtol=0.3)
    assert none.text == ""
    # As a file, too.
    assert [i.id for i in load(tmp_path / "cuts.jsonl.gz")] == [i.id for i in load(tmp_path)]


def test_a_file_of_cuts_is_prepared(tmp_path: Path) -> None:
    """And what lies in a longer recording is heard, not copied."""
    cuts = [cut(tmp_path, "one"), cut(tmp_path, "three", 1.5, 3)]
    for said in (said for one in cuts for said in one.supervisions):
        said.text = "said"
    CutSet(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    part = CorpusConfig(corpus=str(tmp_path / "cuts.jsonl.gz"), split="all")
    prepared = prepare(part, None, tmp_path / "out", 1.0)
    assert [one.duration for one in prepared.cuts] == [1.0, 0.5, 0.5, 0.5]
    assert not list((prepared.folder / "audio").iterdir())


def test_what_a_cut_says_of_its_time_is_heard(tmp_path: Path) -> None:
    middle = cut(tmp_path, "long", 2.0).truncate(offset=0.5, duration=1.0)
    mixed = cut(tmp_path, "loud").mix(cut(tmp_path, "quiet"), snr=20)
    CutSet([middle, mixed]).to_file(tmp_path / "cuts.jsonl.gz")
    first, *_ = found = load(tmp_path)
    samples, _ = soundfile.read(tmp_path / "long.wav", dtype="float32")
    np.testing.assert_allclose(first.read(), samples[8000:24000], atol=1e-6)
    assert {p.name for i in found for p in i.files} == {"long.wav", "loud.wav", "quiet.wav"}
    assert all(len(item.read()) == 16000 for item in found)


@pytest.mark.parametrize("where", ["command", "url", "sph", "reverberation", "track"])
def test_a_cut_runs_nothing(tmp_path: Path, where: str) -> None:
    """Lhotse would: sources that are commands or pipes, and a name within its call of sph2pipe."""
    ran = tmp_path / "ran"
    hostile = cut(tmp_path, "hostile", 2.0)
    kind, source = {
        "url": ("url", f"pipe:touch {ran}"),
        "sph": ("file", f"a;touch {ran};.sph"),
    }.get(where, ("command", f"touch {ran}"))
    [audio] = hostile.recording.sources
    audio.type, audio.source = kind, source
    one: Cut = hostile.truncate(duration=1.0)
    if where == "track":
        one = cut(tmp_path, "loud").mix(hostile, snr=20)
    elif where == "reverberation":
        one = cut(tmp_path, "dry").reverb_rir(hostile.recording)
    CutSet([one]).to_file(tmp_path / "cuts.jsonl.gz")
    assert "would run a command" in refusal(tmp_path)
    assert not ran.exists()
    with contextlib.suppress(Exception):
        one.load_audio()
    assert ran.exists(), "as it would have"


def test_names_tell_the_split(tmp_path: Path) -> None:
    for name in ("train", "dev", "test-clean"):
        CutSet([cut(tmp_path, name)]).to_file(tmp_path / f"mine_cuts_{name}.jsonl.gz")
    assert [i.id for i in load(tmp_path, "dev")] == ["dev-0"]
    assert [i.id for i in load(tmp_path, "test-clean")] == ["test-clean-0"]
    assert len(load(tmp_path)) == 3
    assert "named 'test' (there: mine_cuts_dev.jsonl.gz, " in refusal(tmp_path, "test")


def test_a_cut_set_without_splits_is_split_up(tmp_path: Path) -> None:
    one = cut(tmp_path, "one")
    cuts = [one.with_id(f"{n}") for n in range(20)]
    for n, copy in enumerate(cuts):
        copy.supervisions = [SupervisionSegment(f"u{n}", "one", 0, 1, text="x", speaker=f"s{n}")]
    CutSet(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    with pytest.warns(UserHint, match="2 of its 20 speakers are dev"):
        dev = load(tmp_path, "dev")
    assert len(dev) == 2


@pytest.mark.parametrize("damage", ["cut short", "flipped", "no gzip", "other"])
def test_a_damaged_cut_set_is_one_line(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "cuts.jsonl.gz"
    CutSet([cut(tmp_path, "one").with_id(str(n)) for n in range(30)]).to_file(file)
    data = bytearray(file.read_bytes())
    if damage == "cut short":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    elif damage == "no gzip":
        data = bytearray(b"{}")
    else:
        data = bytearray(gzip.compress(b'{"hello": 1}\n'))
    file.write_bytes(data)
    assert f"{file}: not a lhotse cut set, or a damaged one" in refusal(tmp_path)


def test_parts_that_are_not_there_are_empty(tmp_path: Path) -> None:
    """Whoever looks for all that is held out passes over them."""
    CutSet([cut(tmp_path, "one")]).to_file(tmp_path / "mine_cuts_train.jsonl.gz")
    (tmp_path / "few/train").mkdir(parents=True)
    cut(tmp_path / "few/train", "a")
    yesno(tmp_path / "yesno")
    for corpus, split in ((tmp_path, "dev"), ("yesno", "dev"), (tmp_path / "few/train", "test")):
        with pytest.raises(EmptyPartError):
            load(corpus, split, tmp_path)


def yesno(folder: Path) -> Path:
    """As lhotse's recipe wants it: sixty files whose names are what is said."""
    folder.mkdir(parents=True)
    for n in range(60):
        name = "_".join(f"{n:08b}")
        soundfile.write(folder / f"{name}.wav", sound(0.2, n, 8000), 8000)
    return folder


def test_any_recipe_of_lhotse_is_a_corpus_by_name(tmp_path: Path) -> None:
    folder = yesno(tmp_path / "yesno")
    train, test = (load("yesno", split, tmp_path) for split in ("train", "test"))
    assert (len(train), len(test)) == (30, 30) and len(load("yesno", "all", tmp_path)) == 60
    assert {item.audio.parent for item in train if item.audio} == {folder}
    assert all(set(item.text.split()) <= {"YES", "NO"} for item in train)
    assert "no part 'dev'" in (said := refusal("yesno", "dev", tmp_path))
    assert "(there: test, train)" in said
    part = CorpusConfig(corpus="yesno")
    before = fingerprint(part, locate(part, tmp_path), HeldOut(()))
    soundfile.write(folder / "0_0_0_0_0_0_0_0.wav", sound(0.3, 1, 8000), 8000)
    assert fingerprint(part, locate(part, tmp_path), HeldOut(())) != before
    (folder / "0_0_0_0_0_0_0_0.wav").unlink()
    assert f"{folder}: not yesno as unpacked" in refusal("yesno", "train", tmp_path)


def test_a_recipe_that_needs_more_says_so(tmp_path: Path) -> None:
    for name, needs in (("gigaspeech", "output_dir"), ("heroico", "transcript_dir")):
        (tmp_path / name).mkdir()
        said = refusal(name, "train", tmp_path)
        assert needs in said and "name the folder of its cut set" in said


def test_a_folder_of_ones_own_is_not_taken_for_a_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "radio").mkdir()
    soundfile.write(tmp_path / "radio/a.wav", sound(0.2), 16000)
    assert [i.id for i in load("./radio", "all", tmp_path / "corpora")] == ["a.wav"]
