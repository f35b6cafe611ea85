"""Every corpus gives the items that it should, and every wrong one gives one clear line."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pocketscribe.errors import UserError, UserHint
from pocketscribe.speech.corpora import CorpusConfig, items, locate
from pocketscribe.speech.features import read_audio
from pocketscribe.speech.items import Item, RefusedError, listen, words_of
from small_corpora import MakeCorpus, sound

CLIPS = {"0_ann_0": 0.5, "7_ann_1": 0.25, "9_bob_0": 0.4}


def load(root: Path | None = None, **config: object) -> list[Item]:
    part = CorpusConfig.model_validate(config)
    return list(items(part, locate(part, root)))


def refusal(root: Path | None = None, **config: object) -> str:
    """The one line that a wrong corpus gives."""
    with pytest.raises(UserError) as caught:
        load(root, **config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The real corpora, by the table in their README.


@pytest.mark.parametrize(
    ("corpus", "utterances", "speakers", "hours"),
    [
        ("speechocean762", 3780, {"train": 110, "dev": 15, "test": 64}, 4.27),
        ("librispeech_sample", 251, {"train": 226, "dev": 25}, 0.87),
        ("asterisk_allison", 1824, {"train": 1}, 1.01),
        ("freeswitch_callie", 1123, {"train": 1}, 0.33),
        ("fsdd", 2200, {"train": 3, "dev": 1, "test": 1}, None),
    ],
)
def test_real_corpora(
    corpora: Path, corpus: str, utterances: int, speakers: dict[str, int], hours: float | None
) -> None:
    splits = {split: load(corpora, corpus=corpus, split=split) for split in speakers}
    assert {s: len({i.speaker for i in found}) for s, found in splits.items()} == speakers
    every = [item for found in splits.values() for item in found]
    assert len({item.speaker for item in every}) == sum(speakers.values())  # no one in two splits
    assert len({item.id for item in every}) == len(every) == utterances
    assert all(re.fullmatch(r"[A-Z']+( [A-Z']+)*", item.text) for item in every)
    assert all(item.audio.is_file() for item in every if item.audio)
    if hours is not None:
        seconds = sum(float(item.columns["duration_s"]) for item in every)
        assert seconds / 3600 == pytest.approx(hours, abs=0.01)
        assert every[0].audio is not None
        said = float(every[0].columns["duration_s"])
        assert len(read_audio(every[0].audio)) / 16000 == pytest.approx(said, abs=0.01)


def test_real_connected_digits_are_gaps_and_clips(corpora: Path) -> None:
    table = (corpora / "fsdd" / "connected.tsv").read_text().splitlines()[1:]
    rows = {line.split("\t")[0]: line.split("\t") for line in table}
    for item in load(corpora, corpus="fsdd", split="dev")[::50]:
        *_, names, gaps = rows[item.id]
        clips = sum(
            soundfile.info(corpora / "fsdd" / "flac" / item.speaker / f"{name}.flac").frames
            for name in names.split(",")
        )
        seconds = clips / 8000 + sum(map(float, gaps.split(",")))
        assert len(item.read()) / 16000 == pytest.approx(seconds, abs=2e-3)
        assert len(item.text.split()) == len(names.split(","))


def test_real_digit_strings_by_where(corpora: Path) -> None:
    digits = load(corpora, corpus="speechocean762", split="dev", where={"digits_only": "1"})
    others = load(corpora, corpus="speechocean762", split="dev", where={"digits_only": "0"})
    assert digits and len(digits) + len(others) == len(
        load(corpora, corpus="speechocean762", split="dev")
    )
    numbers = "ZERO OH ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE"
    assert all(set(item.text.split()) <= set(numbers.split()) for item in digits)


# Made ones.


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
    [item] = load(tmp_path, corpus="fsdd")
    assert (item.id, item.text, item.speaker) == ("t-0", "ZERO SEVEN", "ann")
    clip = fsdd / "flac/0_ann_0.flac"
    assert item.files == (clip, fsdd / "flac/7_ann_1.flac")
    samples = item.read()  # twice as many as in the clips
    assert len(samples) == 2 * (800 + 4000 + 1600 + 2000 + 400)
    np.testing.assert_array_equal(samples[1600:9600], read_audio(clip))
    assert not samples[:1600].any() and not samples[9600:12800].any()
    assert [i.id for i in load(tmp_path, corpus="fsdd", split="dev")] == ["d-0"]
    assert [i.id for i in load(tmp_path, corpus="fsdd", split="all")] == ["t-0", "d-0"]
    # Whatever its name; and its rows' columns can be asked for.
    fsdd.rename(tmp_path / "strings")
    assert len(load(tmp_path, corpus="strings", split="all", where={"speaker": "bob"})) == 1


def test_a_broken_clip_makes_a_bad_item(fsdd: Path, tmp_path: Path) -> None:
    clip = fsdd / "flac" / "0_ann_0.flac"
    for break_it in (lambda: clip.write_bytes(b""), clip.unlink):
        break_it()
        [item] = load(tmp_path, corpus="fsdd")
        with pytest.raises(RefusedError, match=r"0_ann_0\.flac"):
            listen(item)


@pytest.mark.parametrize(("right", "wrong"), [("0.2,", ""), ("0.2", "x"), ("7_ann", "8_ann")])
def test_a_broken_table_of_strings_is_one_line(
    fsdd: Path, tmp_path: Path, right: str, wrong: str
) -> None:
    table = fsdd / "connected.tsv"
    table.write_text(table.read_text().replace(right, wrong))
    assert f"{table}: line 2" in refusal(tmp_path, corpus="fsdd")
    (fsdd / "manifest.tsv").unlink()
    assert f"{fsdd / 'manifest.tsv'}: no such file" in refusal(tmp_path, corpus="fsdd")


def librispeech(root: Path, name: str = "LibriSpeech") -> Path:
    """Two speakers of dev-clean and one of test-clean, as the download unpacks them."""
    for part, speaker, chapter in (
        ("dev-clean", 84, 121),
        ("dev-clean", 17, 5),
        ("test-clean", 9, 9),
    ):
        folder = root / name / part / str(speaker) / str(chapter)
        folder.mkdir(parents=True)
        lines = []
        for number in range(2):
            key = f"{speaker}-{chapter}-{number:04d}"
            soundfile.write(folder / f"{key}.flac", sound(0.5 + number, speaker), 16000)
            lines.append(f"{key} CHAPTER {'ONE' if number else 'TWO'}\n")
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    return root / name


@pytest.mark.parametrize("name", ["LibriSpeech", "librispeech"])
def test_librispeech(tmp_path: Path, name: str) -> None:
    librispeech(tmp_path, name)
    found = load(tmp_path, corpus="librispeech", split="dev-clean")
    assert [i.id for i in found] == ["17-5-0000", "17-5-0001", "84-121-0000", "84-121-0001"]
    assert [i.text for i in found[:2]] == ["CHAPTER TWO", "CHAPTER ONE"]
    assert {i.speaker for i in found} == {"17", "84"}
    assert [len(read_audio(i.audio)) for i in found[:2] if i.audio] == [8000, 24000]
    assert len(load(tmp_path, corpus="librispeech", split="test-clean")) == 2
    mine = load(tmp_path, corpus="librispeech", split="dev-clean", where={"speaker": "84"})
    assert [i.id for i in mine] == ["84-121-0000", "84-121-0001"]


def test_librispeech_refused(tmp_path: Path) -> None:
    folder = librispeech(tmp_path)
    said = refusal(tmp_path, corpus="librispeech")
    assert "'train'" in said and "dev-clean, test-clean" in said and str(folder) in said
    (folder / "dev-clean/17/5/17-5.trans.txt").write_text("17-5-0000\n")
    assert str(folder) in refusal(tmp_path, corpus="librispeech", split="dev-clean")


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
    a, b = load(corpus=str(folder))
    assert (a.id, a.text, a.speaker, a.audio) == ("a", 'SAY "HI"', "s1", folder / "x" / "a.wav")
    assert (b.id, b.speaker, b.columns["transcript"]) == ("x/b.wav", "", "TWO")
    [c] = load(corpus=str(folder), split="dev")
    assert (c.text, c.audio) == ("", Path("/abs/c.wav"))
    # As a spreadsheet saves it: byte order mark, CRLF, blank lines, a row that is too short.
    (folder / "manifest.tsv").write_bytes(
        b"\xef\xbb\xbfpath\ttext\tsplit\r\na.wav\tHELLO\ttrain\r\n\r\nb.wav\r\n"
    )
    [item] = load(corpus=str(folder))
    assert (item.id, item.text) == ("a.wav", "HELLO")


def test_a_manifest_in_jsonl(tmp_path: Path) -> None:
    rows = [
        {"audio": "a.wav", "text": "one", "take": 2},
        {"id": "b", "path": "b.wav", "transcript": "two", "speaker": "s", "take": 3},
        {"path": "c.wav", "text": None, "take": None},
    ]
    (tmp_path / "manifest.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    a, b, c = load(corpus=str(tmp_path))
    assert (a.id, a.text, a.audio, a.columns["take"]) == ("a.wav", "one", tmp_path / "a.wav", "2")
    assert (b.id, b.text, b.speaker) == ("b", "two", "s")
    assert (c.text, c.columns["take"]) == ("", "")
    assert len(load(corpus=str(tmp_path), split="all")) == 3


def test_a_manifest_in_csv(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        '\ufeffpath,text,speaker,split\r\na.wav,"well, \nsaid ""so""",s1,train\r\nb.wav,two\r\n',
        encoding="utf-8",
    )
    [a] = load(corpus=str(tmp_path))
    assert (a.id, a.text, a.speaker, a.audio) == (
        "a.wav",
        'well, \nsaid "so"',
        "s1",
        tmp_path / "a.wav",
    )
    assert [i.id for i in load(corpus=str(tmp_path), split="all")] == ["a.wav", "b.wav"]


def test_a_manifest_without_splits_is_split_up(make_corpus: MakeCorpus) -> None:
    rows = [
        {"path": f"{n}.wav", "transcript": "X", "speaker": f"s{n}", "split": ""} for n in range(20)
    ]
    folder = str(make_corpus(rows))
    with pytest.warns(UserHint, match="2 of its 20 speakers are dev, 2 test"):
        parts = [load(corpus=folder, split=split) for split in ("train", "dev", "test")]
    assert [len(part) for part in parts] == [16, 2, 2]
    assert len({item.id for part in parts for item in part}) == 20
    assert len(load(corpus=folder, split="all")) == 20
    assert "no utterance matches" in refusal(corpus=folder, split="valid")


def test_audio_beside_text(tmp_path: Path) -> None:
    for name in ("ann/1.wav", "ann/2.FLAC", "bob/1.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        (tmp_path / name).with_suffix(".txt").write_text(f"said in {name}\n", encoding="utf-8")
    (tmp_path / "bob/1.txt").unlink()
    (tmp_path / "notes.md").write_text("no audio")
    found = load(corpus=str(tmp_path))
    assert [i.id for i in found] == ["ann/1.wav", "ann/2.FLAC", "bob/1.wav"]
    assert [i.text.strip() for i in found] == ["said in ann/1.wav", "said in ann/2.FLAC", ""]
    assert Counter(i.speaker for i in found) == {"ann": 2, "bob": 1}
    assert len(load(corpus=str(tmp_path), where={"speaker": "ann"})) == 2


def test_why_there_is_no_text(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    """A mistyped column, a file that is missing, and one that is empty have three names."""
    folder = make_corpus([{"id": "a", "path": "a.wav", "sentence": "HI"}])
    [item] = load(corpus=str(folder))
    with pytest.raises(RefusedError, match=r"no column 'transcript' \(its columns: 'split', 'i"):
        words_of(item)
    loose = tmp_path / "loose"
    loose.mkdir()
    for name in ("a", "b"):
        (loose / f"{name}.wav").write_bytes(b"")
    (loose / "b.txt").write_text(" ")
    for item, why in zip(load(corpus=str(loose)), ("no a.txt beside it", "empty tr"), strict=True):
        with pytest.raises(RefusedError, match=why):
            words_of(item)


def test_cells_as_spreadsheets_write_them(make_corpus: MakeCorpus) -> None:
    folder = make_corpus([])
    lines = ["path\ttranscript", '"a.wav"\t"HELLO YOU"', 'b.wav \t"Hi" he said "ho"']
    (folder / "manifest.tsv").write_text("\n".join(lines))
    assert [(i.audio.name, i.text) for i in load(corpus=str(folder))] == [
        ("a.wav", "HELLO YOU"),
        ("b.wav", '"Hi" he said "ho"'),
    ]


def test_audio_beside_text_in_folders_of_splits(tmp_path: Path) -> None:
    for name in ("train/ann/1.wav", "train/2.wav", "test/bob/1.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [i.id for i in load(corpus=str(tmp_path))] == ["train/2.wav", "train/ann/1.wav"]
    assert [i.id for i in load(corpus=str(tmp_path), split="test")] == ["test/bob/1.wav"]
    assert [i.id for i in load(corpus=str(tmp_path), split="all")] == [
        "train/2.wav",
        "train/ann/1.wav",
        "test/bob/1.wav",
    ]
    # Not all of it, which would score on what was trained on.
    said = refusal(corpus=str(tmp_path), split="dev")
    assert str(tmp_path / "dev") in said and "its splits: train, test" in said


def test_synthetic(tmp_path: Path) -> None:
    found = load(corpus="synthetic", kind="digits", count=3, seed=5)
    assert len({i.id for i in found}) == 3
    assert all(len(i.read()) > 1600 and not i.files for i in found)
    (tmp_path / "mine.txt").write_text("a sentence of my own\n")
    [item] = load(tmp_path, corpus="synthetic", count=1, texts=Path("mine.txt"))
    assert item.text == "A SENTENCE OF MY OWN"


def test_where_chooses_by_columns(make_corpus: MakeCorpus) -> None:
    rows = [
        {
            "path": f"{n}.wav",
            "transcript": "X",
            "age": "child" if n % 2 else "adult",
            "sex": "fm"[n // 2],
        }
        for n in range(4)
    ]
    folder = str(make_corpus(rows))
    assert [i.id for i in load(corpus=folder, where={"age": "child"})] == ["1.wav", "3.wav"]
    assert [i.id for i in load(corpus=folder, where={"age": "child", "sex": "m"})] == ["3.wav"]
    said = refusal(corpus=folder, where={"age": "old"})
    assert "age=old" in said and folder in said
    assert "colour=red" in refusal(corpus=folder, where={"colour": "red"})


def test_missing_corpora_are_one_line(tmp_path: Path) -> None:
    for name in ("mine/manifest.tsv", "LibriSpeech/README", "pictures/a.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    said = refusal(tmp_path, corpus="librispeach")
    assert "'librispeach'" in said and "(there: librispeech, mine)" in said
    said = refusal(tmp_path, corpus="speechocean762")
    assert f"in {tmp_path} (" in said and "POCKETSCRIBE_CORPORA or --root" in said
    assert str(tmp_path) in refusal(corpus=str(tmp_path))
    assert "no such file" in refusal(tmp_path, corpus="synthetic", texts=Path("no.tsv")).lower()
    assert 'split = "all"' in refusal(corpus="synthetic", split="all", count=1)


def test_the_environment_says_where_corpora_are(
    tmp_path: Path, fsdd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCKETSCRIBE_CORPORA", str(tmp_path))
    assert locate(CorpusConfig(corpus="fsdd"), None).path == fsdd
    monkeypatch.setenv("POCKETSCRIBE_CORPORA", str(tmp_path / "nowhere"))
    assert locate(CorpusConfig(corpus="fsdd"), tmp_path).path == fsdd  # --root comes first
    monkeypatch.delenv("POCKETSCRIBE_CORPORA")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpora").mkdir()
    fsdd.rename(tmp_path / "corpora" / "fsdd")
    assert locate(CorpusConfig(corpus="fsdd"), None).path == tmp_path / "corpora/fsdd"


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
    said = refusal(corpus=str(tmp_path))
    assert says in said and str(tmp_path) in said


def test_binary_rubbish_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.tsv").write_bytes(np.random.default_rng(0).bytes(300_000))
    assert str(tmp_path) in refusal(corpus=str(tmp_path))


def test_options_of_synthetic_speech_are_refused_elsewhere() -> None:
    with pytest.raises(UserError, match="'count' belongs to corpus = 'synthetic' alone"):
        CorpusConfig.read({"corpus": "fsdd", "count": 3}, "a.toml")
