"""What others download becomes the very benches that the documented scores were measured on."""

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import soundfile

from pocketscribe.speech.corpora import CorpusConfig, items, locate

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "corpora"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def told(rows: list[dict[str, str]], columns: list[str]) -> list[list[str]]:
    """All but where the audio lies."""
    return [[row[column] for column in columns if column != "path"] for row in rows]


def speechocean762(folder: Path, rows: list[dict[str, str]]) -> Path:
    """The download's tables for these rows of a manifest."""
    for part in ("train", "test"):
        mine = [row for row in rows if row["official_split"] == part]
        (folder / part).mkdir(parents=True)
        for name, pairs in {
            "wav.scp": [(r["id"], f"WAVE/SPEAKER{r['speaker']}/{r['id']}.WAV") for r in mine],
            "text": [(r["id"], r["transcript"]) for r in mine],
            "utt2spk": [(r["id"], r["speaker"]) for r in mine],
            "spk2age": sorted({(r["speaker"], r["age"]) for r in mine}),
            "spk2gender": sorted({(r["speaker"], r["gender"]) for r in mine}),
        }.items():
            (folder / part / name).write_text("".join(f"{k}\t{v}\n" for k, v in pairs))
    return folder


def librispeech(folder: Path, said: dict[str, str]) -> Path:
    """The download's transcripts of train-clean-100."""
    for name, words in said.items():
        speaker, chapter, _ = name.split("-")
        lies = folder / "train-clean-100" / speaker / chapter
        lies.mkdir(parents=True, exist_ok=True)
        with (lies / f"{speaker}-{chapter}.trans.txt").open("a") as file:
            file.write(f"{name} {words}\n")
    return folder


def test_a_tiny_speechocean762(tmp_path: Path) -> None:
    rows = [
        {"id": "000010011", "speaker": "0001", "age": "6", "transcript": "WE CALL IT BEAR"},
        {"id": "000750001", "speaker": "0075", "age": "30", "transcript": "ZERO OH ONE"},
        {"id": "000030001", "speaker": "0003", "age": "16", "transcript": "WE CALL IT BEAR"},
    ]
    for row, part in zip(rows, ("train", "train", "test"), strict=True):
        row |= {"gender": "f", "official_split": part}
    download = speechocean762(tmp_path / "download", rows)
    wave = download / "WAVE/SPEAKER0001/000010011.WAV"
    wave.parent.mkdir(parents=True)
    soundfile.write(wave, [0.0] * 1600, 16000)
    script("speechocean762").main(download, tmp_path / "corpora")
    part = CorpusConfig(corpus="speechocean762")
    [item] = items(part, locate(part, tmp_path / "corpora"))
    assert item.text == "WE CALL IT BEAR" and len(item.read()) == 1600
    assert [
        (r["split"], r["age_group"], r["text_in_train"], r["digits_only"])
        for r in table(tmp_path / "corpora/speechocean762/manifest.tsv")
    ] == [("train", "child", "0", "0"), ("dev", "adult", "0", "1"), ("test", "adult", "1", "0")]


def test_a_tiny_fsdd(tmp_path: Path) -> None:
    recordings = tmp_path / "download" / "recordings"
    recordings.mkdir(parents=True)
    for name in ("8_george_19", "0_yweweler_49", "0_yweweler_50", "0_theo_0"):
        soundfile.write(recordings / f"{name}.wav", [0.1] * 800, 8000)
    script("fsdd").main(tmp_path / "download", tmp_path / "corpora")
    rows = table(tmp_path / "corpora/fsdd/manifest.tsv")
    assert [(r["id"], r["transcript"], r["split"]) for r in rows] == [
        ("0_yweweler_49", "ZERO", "dev"),
        ("8_george_19", "EIGHT", "train"),
    ]
    assert rows[1]["path"] == str(recordings / "8_george_19.wav")
    table_of_strings = tmp_path / "corpora/fsdd/connected.tsv"
    lines = table_of_strings.read_text().splitlines()
    assert len(lines) == 2201
    lines[1:] = ["t\tgeorge\ttrain\tEIGHT EIGHT\t8_george_19,8_george_19\t0.1,0.1,0.1"]
    table_of_strings.write_text("\n".join(lines) + "\n")
    part = CorpusConfig(corpus="fsdd")
    [item] = items(part, locate(part, tmp_path / "corpora"))
    assert item.text == "EIGHT EIGHT" and len(item.read()) == 3 * 1600 + 2 * 1600


def test_a_tiny_librispeech(tmp_path: Path) -> None:
    bench = script("librispeech")
    said = {name: f"SAID IN {name[0]}" for name in (bench.DEV + bench.TRAIN).split()}
    said |= {"27-1-0000": "BE", "19-198-0000": "NORTHANGER ABBEY", "9-9-0000": "NOT ASKED FOR"}
    bench.main(librispeech(tmp_path / "LibriSpeech", said), tmp_path / "corpora")
    sample = table(tmp_path / "corpora/librispeech_sample/manifest.tsv")
    speakers = {
        split: {r["speaker"] for r in sample if r["split"] == split} for split in ("train", "dev")
    }
    assert (len(speakers["train"]), len(speakers["dev"])) == (226, 25)
    assert not speakers["train"] & speakers["dev"] and len(sample) == 251
    assert sample[0]["path"].endswith("/train-clean-100/1040/133433/1040-133433-0000.flac")
    three = table(tmp_path / "corpora/librispeech_3spk/manifest.tsv")
    assert {"19-198-0000", "27-1-0000"} <= {r["id"] for r in three}
    texts = table(tmp_path / "corpora/text/librispeech-train-clean-100.tsv")
    assert texts[0] == {"id": "9-9-0000", "transcript": "NOT ASKED FOR"}
    assert not (tmp_path / "corpora/text/librispeech-dev-clean.tsv").exists()


def test_the_benches_are_the_same_to_the_last_row(corpora: Path, tmp_path: Path) -> None:
    real = table(corpora / "speechocean762/manifest.tsv")
    bench = script("speechocean762")
    bench.main(speechocean762(tmp_path / "so", real), tmp_path)
    real.sort(key=lambda row: (row["official_split"] == "test", row["id"]))
    made = table(tmp_path / "speechocean762/manifest.tsv")
    assert told(made, bench.COLUMNS) == told(real, bench.COLUMNS)
    texts = table(corpora / "text/librispeech-train-clean-100.tsv")
    said = {row["id"]: row["transcript"] for row in texts}
    bench = script("librispeech")
    bench.main(librispeech(tmp_path / "LibriSpeech", said), tmp_path)
    assert table(tmp_path / "text/librispeech-train-clean-100.tsv") == texts
    for name in ("librispeech_sample", "librispeech_3spk"):
        made, real = (table(root / name / "manifest.tsv") for root in (tmp_path, corpora))
        assert told(made, bench.COLUMNS) == told(real, bench.COLUMNS)
    ours, theirs = SCRIPTS / "connected.tsv", corpora / "fsdd/connected.tsv"
    assert ours.read_bytes() == theirs.read_bytes()
    fsdd = script("fsdd")
    splits = {row["speaker"]: row["split"] for row in table(corpora / "fsdd/manifest.tsv")}
    assert splits == fsdd.SPLITS


@pytest.mark.parametrize("name", ["speechocean762", "fsdd", "librispeech"])
def test_how_to_call_it_is_said(name: str) -> None:
    assert f"python benchmarks/corpora/{name}.py DOWNLOAD OUT" in (script(name).__doc__ or "")
