"""Every corpus gives the items that it should, and every wrong one gives one clear line."""

import re
from pathlib import Path

import pytest
import soundfile

from pocketscribe.errors import UserError
from pocketscribe.speech.corpora import CorpusConfig, locate
from pocketscribe.speech.features import read_audio
from small_corpora import MakeCorpus, load, refusal, sound

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
    splits = {split: load(corpus, split, corpora) for split in speakers}
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
    for item in load("fsdd", "dev", corpora)[::50]:
        *_, names, gaps = rows[item.id]
        clips = sum(
            soundfile.info(corpora / "fsdd" / "flac" / item.speaker / f"{name}.flac").frames
            for name in names.split(",")
        )
        seconds = clips / 8000 + sum(map(float, gaps.split(",")))
        assert len(item.read()) / 16000 == pytest.approx(seconds, abs=2e-3)
        assert len(item.text.split()) == len(names.split(","))


def test_real_digit_strings_by_where(corpora: Path) -> None:
    digits = load("speechocean762", "dev", corpora, where={"digits_only": "1"})
    others = load("speechocean762", "dev", corpora, where={"digits_only": "0"})
    assert digits and len(digits) + len(others) == len(load("speechocean762", "dev", corpora))
    numbers = "ZERO OH ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE"
    assert all(set(item.text.split()) <= set(numbers.split()) for item in digits)


# Made ones.


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
    found = load("librispeech", "dev-clean", tmp_path)
    assert [i.id for i in found] == ["17-5-0000", "17-5-0001", "84-121-0000", "84-121-0001"]
    assert [i.text for i in found[:2]] == ["CHAPTER TWO", "CHAPTER ONE"]
    assert {i.speaker for i in found} == {"17", "84"}
    assert [len(read_audio(i.audio)) for i in found[:2] if i.audio] == [8000, 24000]
    assert len(load("librispeech", "test-clean", tmp_path)) == 2
    mine = load("librispeech", "dev-clean", tmp_path, where={"speaker": "84"})
    assert [i.id for i in mine] == ["84-121-0000", "84-121-0001"]


def test_librispeech_refused(tmp_path: Path) -> None:
    folder = librispeech(tmp_path)
    said = refusal("librispeech", "train", tmp_path)
    assert "'train'" in said and "dev-clean, test-clean" in said and str(folder) in said
    (folder / "dev-clean/17/5/17-5.trans.txt").write_text("17-5-0000\n")
    assert str(folder) in refusal("librispeech", "dev-clean", tmp_path)


def test_synthetic(tmp_path: Path) -> None:
    found = load("synthetic", "train", kind="digits", count=3, seed=5)
    assert len({i.id for i in found}) == 3
    assert all(len(i.read()) > 1600 and not i.files for i in found)
    (tmp_path / "mine.txt").write_text("a sentence of my own\n")
    [item] = load("synthetic", "train", tmp_path, count=1, texts=Path("mine.txt"))
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
    assert [i.id for i in load(folder, where={"age": "child"})] == ["1.wav", "3.wav"]
    assert [i.id for i in load(folder, where={"age": "child", "sex": "m"})] == ["3.wav"]
    said = refusal(folder, where={"age": "old"})
    assert "age=old" in said and folder in said
    assert "colour=red" in refusal(folder, where={"colour": "red"})


def test_missing_corpora_are_one_line(tmp_path: Path) -> None:
    for name in ("mine/manifest.tsv", "LibriSpeech/README", "pictures/a.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    said = refusal("librispeach", root=tmp_path)
    assert "'librispeach'" in said and "(there: librispeech, mine)" in said
    said = refusal("speechocean762", root=tmp_path)
    assert f"in {tmp_path} (" in said and "POCKETSCRIBE_CORPORA or --root" in said
    assert str(tmp_path) in refusal(tmp_path)
    assert "no such file" in refusal("synthetic", "train", tmp_path, texts=Path("no.tsv")).lower()
    assert 'split = "all"' in refusal("synthetic", "all", count=1)


def test_the_environment_says_where_corpora_are(
    tmp_path: Path, make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = make_corpus([])
    monkeypatch.setenv("POCKETSCRIBE_CORPORA", str(tmp_path))
    assert locate(CorpusConfig(corpus="mine"), None).path == mine
    monkeypatch.setenv("POCKETSCRIBE_CORPORA", str(tmp_path / "nowhere"))
    assert locate(CorpusConfig(corpus="mine"), tmp_path).path == mine  # --root comes first
    monkeypatch.delenv("POCKETSCRIBE_CORPORA")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpora").mkdir()
    mine.rename(tmp_path / "corpora" / "mine")
    assert locate(CorpusConfig(corpus="mine"), None).path == tmp_path / "corpora/mine"


def test_options_of_synthetic_speech_are_refused_elsewhere() -> None:
    with pytest.raises(UserError, match="'count' belongs to corpus = 'synthetic' alone"):
        CorpusConfig.read({"corpus": "fsdd", "count": 3}, "a.toml")


def test_all_of_a_folder_is_all_of_its_folders(tmp_path: Path) -> None:
    """Also of what is called none of train, dev and test."""
    for part in ("train", "dev", "validation"):
        (tmp_path / part).mkdir()
        soundfile.write(tmp_path / part / "a.wav", sound(0.3), 16000)
        (tmp_path / part / "a.txt").write_text("HELLO")
    (tmp_path / "notes").mkdir()
    assert {item.id for item in load(tmp_path)} == {"train/a.wav", "dev/a.wav", "validation/a.wav"}
