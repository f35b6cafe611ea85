"""The command line, as a user meets it: exit codes, one line for bad input, documented JSON."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from pocketscribe import cli
from pocketscribe.models import ChunkConfig, ConformerConfig, ModelConfig, Recogniser
from pocketscribe.models.saved import Saved, save_model
from pocketscribe.speech.units import Units, UnitsConfig

EVALUATE_KEYS = {
    "wer",
    "ci_low",
    "ci_high",
    "substitutions",
    "deletions",
    "insertions",
    "words",
    "utterances",
    "rtf",
    "audio_seconds",
    "parameters_stored",
    "parameters_virtual",
    "bytes",
    "peak_rss_bytes",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model: what it writes is nonsense, how it is asked is not."""
    torch.manual_seed(0)
    units = Units.learn(["ONE TWO THREE"] * 3, UnitsConfig(kind="char"))
    config = ModelConfig(
        encoder=ConformerConfig(width=16, layers=1, heads=2, kernel=3),
        chunks=ChunkConfig(sizes=(8,), left=16),
        predictor=16,
        joiner=16,
        subsampling=16,
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, Saved(Recogniser(config, len(units)), units.to_json()))
    return path


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A folder corpus of two readable utterances and one that is not audio."""
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    folder = tmp_path / "mine"
    folder.mkdir()
    soundfile.write(folder / "a.wav", noise, 16000)
    soundfile.write(folder / "b.flac", noise[:8000], 8000)
    (folder / "c.wav").write_bytes(b"no audio at all")
    for name in "abc":
        (folder / f"{name}.txt").write_text("one two")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Runs `pocketscribe ARGUMENTS` in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["pocketscribe", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "no_such_recipe"), "neither a file nor a shipped recipe"),
        (("run", "quickstart", "--set", "model.encoder.widht=8"), "did you mean 'width'?"),
        (("prepare", "no_such_corpus"), "neither a folder nor a known corpus"),
        (("prepare", "fsdd", "--root", "nowhere"), "no folder nowhere/fsdd; set POCKETSCRIBE_CORP"),
        (("evaluate", "nowhere", "--corpus", "fsdd"), "nowhere: no such model"),
        (("evaluate", "MODEL", "--corpus", "gone"), "neither a folder nor a known corpus"),
        (("evaluate", "MODEL", "--corpus", "SPEECH", "--chunk", "5"), "trained for chunks of 8"),
        (("evaluate", "MODEL", "--corpus", "SPEECH", "--where", "age"), "write COLUMN=VALUE"),
        (("transcribe", "MODEL"), "give audio files, or --microphone"),
        (("transcribe", "MODEL", "gone.wav"), "gone.wav: no such audio file"),
        (("transcribe", "MODEL", "SPEECH/c.wav"), "not readable as audio"),
        (("transcribe", "SPEECH/c.wav", "SPEECH/a.wav"), "not a readable model file"),
        (("export", "MODEL", "--to", "wishes", "--out", "OUT"), "not a target; choose safetensors"),
        (("export", "SPEECH", "--to", "onnx", "--out", "OUT"), "no model in it"),
        (("size", "nothing"), "neither a model nor a recipe"),
        (("report", "SPEECH", "--out", "OUT"), "no results.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...],
    said: str,
    model: Path,
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"MODEL": model, "SPEECH": speech, "OUT": tmp_path / "out"}
    named = [str(places[a]) if a in places else a.replace("SPEECH", str(speech)) for a in arguments]
    before = {p for p in tmp_path.rglob("*") if p.suffix != ".0"}
    assert run(monkeypatch, *named) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.startswith("pocketscribe: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.out + captured.err
    left = {p for p in tmp_path.rglob("*") if p.is_file()} - before
    assert [p for p in left if "tfevents" not in p.name] == []


def test_evaluate_writes_the_documented_keys(
    model: Path,
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scores = tmp_path / "scores.json"
    for streaming in ([], ["--streaming"]):
        code = run(monkeypatch, "evaluate", model, "--corpus", speech, *streaming, "--json", scores)
        assert code == 0
        found = json.loads(scores.read_text())
        assert found.keys() >= EVALUATE_KEYS
        assert found["utterances"] == 2
        assert found["words"] == 4
        assert found["unreadable"] == 1
        assert found["bytes"] == model.stat().st_size
        assert found["streaming"] == bool(streaming)
        assert "WER" in capsys.readouterr().out


def test_transcribe_prints_one_object_a_file(
    model: Path,
    speech: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "transcribe", model, speech / "a.wav", speech / "b.flac", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == [str(speech / "a.wav"), str(speech / "b.flac")]
    for line in lines:
        assert line.keys() == {"path", "text", "tokens", "timestamps"}
        assert len(line["tokens"]) == len(line["timestamps"])


def test_size_equals_the_exported_file(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "half.safetensors"
    assert run(monkeypatch, "export", model, "--to", "safetensors", "--out", out) == 0
    capsys.readouterr()
    assert run(monkeypatch, "size", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() >= {
        "bytes",
        "bits_per_weight",
        "parameters_stored",
        "parameters_virtual",
        "parts",
    }
    assert found["bytes"] == out.stat().st_size == sum(found["parts"].values())


def test_prepare_counts_and_lists_what_is_bad(
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One of three is bad, more than the share that is let pass: refused, but listed."""
    assert run(monkeypatch, "prepare", speech, "--out", tmp_path / "prepared") == 2
    assert "1 of 3 items are bad" in capsys.readouterr().err
    [listed] = (tmp_path / "prepared").glob("*.bad.tsv")
    assert "c.wav: not readable as audio" in listed.read_text()
    (speech / "c.wav").unlink()
    assert run(monkeypatch, "prepare", speech, "--out", tmp_path / "prepared") == 0
    assert "2 utterances" in capsys.readouterr().out
