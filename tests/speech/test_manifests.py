"""A folder of one's own says what was said in its recordings, or in one line why it does not."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pocketscribe.errors import UserHint
from pocketscribe.speech.features import read_audio
from pocketscribe.speech.items import RefusedError, listen, words_of
from small_corpora import MakeCorpus, load, refusal, sound

CLIPS = {"0_ann_0": 0.5, "7_ann_1": 0.25, "9_bob_0": 0.4}


@pytest.fixture
def fsdd(tmp_path: Path) -> Path:
    """Three clips, two strings."""
    folder = tmp_path / "fsdd"
    (folder / "flac").mkdir(parents=True)
    for seed, (name, seconds) in enumerate(CLIPS.items()):
        soundfile.write(folder / f"flac/{name}.flac", sound(seconds, seed, 8000), 8000)
    lines = ["id\tpath\tspeaker", *(f"{n}\tflac/{n}.flac\t{n.split('_')[1]}" for n in CLIPS)]
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n")
    (folder / "connected.tsv").write_text(
        "id\tspeaker\tsplit\ttranscript\tcomponents\tgaps_s\n"
        "t-0\tann\ttrain\tZERO SEVEN\t0_ann_0,7_ann_1\t0.1,0.2,0.05\n"
        "d-0\tbob\tdev\tNINE\t9_bob_0\t0.3,0\n"
    )
    return folder


def test_connected_digits(fsdd: Path, tmp_path: Path) -> None:
    [item] = load("fsdd", "train", tmp_path)
    assert (item.id, item.text, item.speaker) == ("t-0", "ZERO SEVEN", "ann")
    clip = fsdd / "flac/0_ann_0.flac"
    assert item.files == (clip, fsdd / "flac/7_ann_1.flac")
    samples = item.read()  # twice as many as in the clips
    assert len(samples) == 2 * (800 + 4000 + 1600 + 2000 + 400)
    np.testing.assert_array_equal(samples[1600:9600], read_audio(clip))
    assert not samples[:1600].any() and not samples[9600:12800].any()
    assert [i.id for i in load("fsdd", "dev", tmp_path)] == ["d-0"]
    assert [i.id for i in load("fsdd", root=tmp_path)] == ["t-0", "d-0"]
    # Whatever its name; and its rows' columns can be asked for.
    fsdd.rename(tmp_path / "strings")
    assert len(load("strings", root=tmp_path, where={"speaker": "bob"})) == 1


def test_a_broken_clip_makes_a_bad_item(fsdd: Path, tmp_path: Path) -> None:
    clip = fsdd / "flac" / "0_ann_0.flac"
    for break_it in (lambda: clip.write_bytes(b""), clip.unlink):
        break_it()
        [item] = load("fsdd", "train", tmp_path)
        with pytest.raises(RefusedError, match=r"0_ann_0\.flac"):
            listen(item)


@pytest.mark.parametrize(("right", "wrong"), [("0.2,", ""), ("0.2", "x"), ("7_ann", "8_ann")])
def test_a_broken_table_of_strings_is_one_line(
    fsdd: Path, tmp_path: Path, right: str, wrong: str
) -> None:
    table = fsdd / "connected.tsv"
    table.write_text(table.read_text().replace(right, wrong))
    assert f"{table}: line 2" in refusal("fsdd", "train", tmp_path)
    (fsdd / "manifest.tsv").unlink()
    assert f"{fsdd / 'manifest.tsv'}: no such file" in refusal("fsdd", "train", tmp_path)


def test_a_manifest_in_tsv(make_corpus: MakeCorpus) -> None:
    folder = make_corpus(
        [
            {
                "id": "a",
                "path": "x/a.wav",
                "transcript": 'SAY "HI"',
                "speaker": "s1",
                "split": "train",
            },
            {"id": "", "path": "x/b.wav", "transcript": "TWO", "speaker": "", "split": "train"},
            {"id": "c", "path": "/abs/c.wav", "transcript": "", "speaker": "s2", "split": "dev"},
        ]
    )
    a, b = load(folder, "train")
    assert (a.id, a.text, a.speaker, a.audio) == ("a", 'SAY "HI"', "s1", folder / "x" / "a.wav")
    assert (b.id, b.speaker, b.columns["transcript"]) == ("x/b.wav", "", "TWO")
    [c] = load(folder, "dev")
    assert (c.text, c.audio) == ("", Path("/abs/c.wav"))
    # As a spreadsheet saves it: byte order mark, CRLF, blank lines, a row that is too short.
    (folder / "manifest.tsv").write_bytes(
        b"\xef\xbb\xbfpath\ttext\tsplit\r\na.wav\tHELLO\ttrain\r\n\r\nb.wav\r\n"
    )
    [item] = load(folder, "train")
    assert (item.id, item.text) == ("a.wav", "HELLO")


def test_a_manifest_in_jsonl(tmp_path: Path) -> None:
    rows = [
        {"audio": "a.wav", "text": "one", "take": 2},
        {"id": "b", "path": "b.wav", "transcript": "two", "speaker": "s", "take": 3},
        {"path": "c.wav", "text": None, "take": None},
    ]
    (tmp_path / "manifest.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    a, b, c = load(tmp_path)
    assert (a.id, a.text, a.audio, a.columns["take"]) == ("a.wav", "one", tmp_path / "a.wav", "2")
    assert (b.id, b.text, b.speaker) == ("b", "two", "s")
    assert (c.text, c.columns["take"]) == ("", "")
    assert len(load(tmp_path)) == 3


def test_a_manifest_in_csv(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        '\ufeffpath,text,speaker,split\r\na.wav,"well, \nsaid ""so""",s1,train\r\nb.wav,two\r\n',
        encoding="utf-8",
    )
    [a] = load(tmp_path, "train")
    assert (a.id, a.text, a.speaker, a.audio) == (
        "a.wav",
        'well, \nsaid "so"',
        "s1",
        tmp_path / "a.wav",
    )
    assert [i.id for i in load(tmp_path)] == ["a.wav", "b.wav"]


def test_a_manifest_without_splits_is_split_up(make_corpus: MakeCorpus) -> None:
    rows = [
        {"path": f"{n}.wav", "transcript": "X", "speaker": f"s{n}", "split": ""} for n in range(20)
    ]
    folder = str(make_corpus(rows))
    with pytest.warns(UserHint, match="2 of its 20 speakers are dev, 2 test"):
        parts = [load(folder, split) for split in ("train", "dev", "test")]
    assert [len(part) for part in parts] == [16, 2, 2]
    assert len({item.id for part in parts for item in part}) == 20
    assert len(load(folder)) == 20
    assert "no utterance matches" in refusal(folder, "valid")


def test_audio_beside_text(tmp_path: Path) -> None:
    for name in ("ann/1.wav", "ann/2.FLAC", "bob/1.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        (tmp_path / name).with_suffix(".txt").write_text(f"said in {name}\n", encoding="utf-8")
    (tmp_path / "bob/1.txt").unlink()
    (tmp_path / "notes.md").write_text("no audio")
    found = load(tmp_path)
    assert [i.id for i in found] == ["ann/1.wav", "ann/2.FLAC", "bob/1.wav"]
    assert [i.text.strip() for i in found] == ["said in ann/1.wav", "said in ann/2.FLAC", ""]
    assert Counter(i.speaker for i in found) == {"ann": 2, "bob": 1}
    assert len(load(tmp_path, where={"speaker": "ann"})) == 2


def test_why_there_is_no_text(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    """A mistyped column, a file that is missing, and one that is empty have three names."""
    folder = make_corpus([{"id": "a", "path": "a.wav", "sentence": "HI"}])
    [item] = load(folder)
    with pytest.raises(RefusedError, match=r"no column 'transcript' \(its columns: 'split', 'i"):
        words_of(item)
    loose = tmp_path / "loose"
    loose.mkdir()
    for name in ("a", "b"):
        (loose / f"{name}.wav").write_bytes(b"")
    (loose / "b.txt").write_text(" ")
    for item, why in zip(load(loose), ("no a.txt beside it", "empty tr"), strict=True):
        with pytest.raises(RefusedError, match=why):
            words_of(item)


def test_cells_as_spreadsheets_write_them(make_corpus: MakeCorpus) -> None:
    folder = make_corpus([])
    lines = ["path\ttranscript", '"a.wav"\t"HELLO YOU"', 'b.wav \t"Hi" he said "ho"']
    (folder / "manifest.tsv").write_text("\n".join(lines))
    assert [(i.audio.name, i.text) for i in load(folder)] == [
        ("a.wav", "HELLO YOU"),
        ("b.wav", '"Hi" he said "ho"'),
    ]


def test_audio_beside_text_in_folders_of_splits(tmp_path: Path) -> None:
    for name in ("train/ann/1.wav", "train/2.wav", "test/bob/1.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [i.id for i in load(tmp_path, "train")] == ["train/2.wav", "train/ann/1.wav"]
    assert [i.id for i in load(tmp_path, "test")] == ["test/bob/1.wav"]
    assert [i.id for i in load(tmp_path)] == [
        "train/2.wav",
        "train/ann/1.wav",
        "test/bob/1.wav",
    ]
    # Not all of it, which would score on what was trained on.
    said = refusal(tmp_path, "dev")
    assert str(tmp_path / "dev") in said and "its splits: train, test" in said


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "manifest.tsv",
            "id\ttext\na\tHI\n",
            "no column 'path' of audio files (its co",
        ),
        ("manifest.tsv", "path\ttext\na.wav\tHI\n\n\tHO\n", "line 4 has no 'path'"),
        ("manifest.tsv", "", "no utterance matches"),
        ("manifest.tsv", "path\ttext\n", "no utterance matches"),
        ("manifest.jsonl", '{"path": "a.wav"}\n{"path": \n', "line 2 is not a JSON object"),
        ("manifest.jsonl", '["a.wav"]\n', "line 1 is not a JSON object"),
        ("manifest.jsonl", '\n\n{"text": "hello"}\n', "no column 'path'"),
        ("manifest.jsonl", '{"path": "a"}\n{"text": "hello"}\n', "line 2 has no 'path'"),
        ("manifest.jsonl", "", "no utterance matches"),
        ("manifest.jsonl", '{"path": "a.wav", "text": "\\ud800"}\n', "line 1 is not a JSON"),
        ("manifest.jsonl", '{"path": "a.wav", "n": ' + "9" * 5000 + "}\n", "line 1 is not a JSON"),
        ("manifest.jsonl", "[" * 100_000 + "\n", "line 1 is not a JSON"),
        ("manifest.csv", "text\nhello\n", "no column 'path'"),
        ("manifest.csv", 'path\n"' + "a" * 200_000 + '"\n', "not CSV after line 1"),
    ],
)
def test_a_bad_manifest_is_one_line_that_says_where(
    tmp_path: Path, name: str, content: str, says: str
) -> None:
    (tmp_path / name).write_text(content)
    said = refusal(tmp_path)
    assert says in said and str(tmp_path) in said


def test_binary_rubbish_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.tsv").write_bytes(np.random.default_rng(0).bytes(300_000))
    assert str(tmp_path) in refusal(tmp_path)
