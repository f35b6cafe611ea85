"""The command line, as a user meets it: exit codes, one line for bad input, documented JSON."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from called import Call, Ended, check_refused
from pocketscribe.models import ChunkConfig, ConformerConfig, ModelConfig, Recogniser
from pocketscribe.models.saved import Saved, save_model
from pocketscribe.speech.units import Units, UnitsConfig
from talkative import digits
from tiny import TINY_RECIPE, command, environment

MODELS = Path(__file__).parents[1] / "models"

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
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    for head, name in (("ctc", "ctc.safetensors"), ("transducer", path.name)):
        config = ModelConfig(
            encoder=ConformerConfig(width=16, layers=1, heads=2, kernel=3),
            head=head,
            chunks=ChunkConfig(sizes=(8,), left=16),
            predictor=16,
            joiner=16,
            subsampling=16,
        )
        save_model(path.with_name(name), Saved(Recogniser(config, len(units)), units.to_json()))
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
    rows = [f"{name}\tone two\ttest" for name in ("a.wav", "b.flac", "c.wav")]
    (folder / "manifest.tsv").write_text("\n".join(["path\ttranscript\tsplit", *rows]) + "\n")
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "no_such_recipe"), "neither a file nor a shipped recipe"),
        (("run", "quickstart", "--set", "model.encoder.widht=8"), "did you mean 'width'?"),
        (("prepare", "no_such_corpus"), "neither a folder nor a corpus in"),
        (("prepare", "fsdd", "--root", "nowhere"), "set POCKETSCRIBE_CORPORA or --root"),
        (("evaluate", "nowhere", "--corpus", "fsdd"), "nowhere: no such model"),
        (("evaluate", "MODEL", "--corpus", "gone"), "neither a folder nor a corpus in"),
        (("evaluate", "MODEL", "--corpus", "SPEECH", "--chunk", "5"), "trained for chunks of 8"),
        (("evaluate", "MODEL", "--corpus", "SPEECH", "--where", "age"), "write COLUMN=VALUE"),
        (("evaluate", "MODEL", "--corpus", "SPEECH", "--json", "SPEECH"), "is a folder already"),
        (("evaluate", "MODEL", "--corpus", "synthetic", "--where", "a=b"), "--corpus: "),
        (
            ("transcribe", "MODEL", "SPEECH/a.wav", "--lm", "MODEL", "--label-bonus", "nan"),
            "options of decoding: label_bonus = ",
        ),
        (("transcribe", "MODEL", "--microphone", "--json"), "--microphone shows text: leave out"),
        (("evaluate", "MODEL", "--corpus", "SPEECH", "--where", "age=9"), "no utterance matches"),
        (
            ("evaluate", "CTC", "--corpus", "SPEECH", "--beam", "4"),
            "beam search needs a transducer",
        ),
        (("transcribe", "MODEL", "SPEECH/a.wav", "--lm", "gone"), "gone: no such language model"),
        (("transcribe", "MODEL", "SPEECH/a.wav", "--lm", "MODEL"), "not a language model of this"),
        (
            ("evaluate", "MODEL", "--corpus", "SPEECH", "--hotword", "ONE", "--beam", "1"),
            "give --beam 16",
        ),
        (("evaluate", "MODEL", "--corpus", "SPEECH", "--hotword", "7"), "this model cannot spell"),
        (("evaluate", "MODEL", "--corpus", "SPEECH", "--hotwords", "gone"), "not readable as text"),
        (("lm", "MODEL", "--text", "gone", "--out", "OUT"), "gone: not readable as text"),
        (
            ("lm", "MODEL", "--text", "SPEECH/a.txt", "--budget", "big", "--out", "OUT"),
            "write byte",
        ),
        (
            ("lm", "MODEL", "--text", "SPEECH/a.txt", "--without", "x", "--out", "OUT"),
            "CORPUS:SPLI",
        ),
        (("transcribe", "MODEL"), "give audio files, folders or -, or else --microphone"),
        (("transcribe", "MODEL", "SPEECH/a.wav", "--microphone"), "give audio files, folders or"),
        (("transcribe", "MODEL", "--microphone"), "pip install 'pocketscribe[microphone]'"),
        (("transcribe", "MODEL", "EMPTY"), "no audio in this folder (.wav, .flac"),
        (("transcribe", "MODEL", "SPEECH", "--format", "doc"), "choose text, json, srt, vtt"),
        (("transcribe", "MODEL", "SPEECH", "--json", "--format", "srt"), "--json is --format json"),
        (("transcribe", "MODEL", "SPEECH", "--format", "srt"), "3 files need --out FOLDER"),
        (("transcribe", "MODEL", "SPEECH/a.wav", "--chunk", "few"), "neither a number of frames"),
        (("transcribe", "MODEL", "SPEECH/a.wav", "--chunk", "full"), "trained for chunks of 8"),
        (("transcribe", "MODEL", "SPEECH/a.wav", "--device", "tpu"), "choose cpu, cuda or auto"),
        (("run", "quickstart", "--device", "tpu"), "choose cpu, cuda or auto"),
        (("evaluate", "MODEL", "--corpus", "SPEECH", "--group", "age"), "no such column; there ar"),
        (("card", "SPEECH"), "no model in it"),
        (("card", str(MODELS / "digits.lm")), "a language model, which goes beside a recogniser"),
        (("transcribe", "MODEL", "SPEECH/a.wav", "--beam", "1001"), "less than or equal to 1000"),
        (("transcribe", "MODEL", "gone.wav"), "gone.wav: no such audio file"),
        (("transcribe", "MODEL", "SPEECH/c.wav"), "not readable as audio"),
        (("transcribe", "SPEECH/c.wav", "SPEECH/a.wav"), "not a readable model file"),
        (("export", "MODEL", "--to", "wishes", "--out", "OUT"), "not a target; choose packed"),
        (("export", "SPEECH", "--to", "onnx", "--out", "OUT"), "no model in it"),
        (("export", "MODEL", "--to", "safetensors", "--out", "SPEECH"), "is a folder already"),
        (
            ("export", "MODEL", "--to", "safetensors", "--int8", "--out", "OUT"),
            "--int8 is for onnx",
        ),
        (("export", "MODEL", "--to", "safetensors", "--out", "/dev/null/x"), "cannot be written"),
        (("export", "CTC", "--to", "sherpa-onnx", "--out", "OUT"), "has a CTC head"),
        (
            ("export", "MODEL", "--to", "onnx", "--chunk", "5", "--out", "OUT"),
            "trained for chunks of",
        ),
        (("size", "nothing"), "neither a model nor a recipe"),
        (("size", "SPEECH/c.wav"), "not a readable model file"),
        (("size", "CUT"), "not a readable model file"),
        (("transcribe", "CUT", "SPEECH/a.wav"), "not a readable model file"),
        (("evaluate", "MODEL"), "Missing option '--corpus'. (--help tells more)"),
        (("evaluate", "MODEL", "--corpus", "SPEECH", "--beam", "0"), "greater than or equal to 1"),
        (("shrink", "MODEL"), "No such command 'shrink'"),
        (("run", "quickstart", "--fast"), "No such option: --fast"),
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
    call: Call,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    ctc, cut = model.with_name("ctc.safetensors"), model.with_name("cut.safetensors")
    cut.write_bytes(model.read_bytes()[:-100])
    places = {"MODEL": model, "CTC": ctc, "CUT": cut, "SPEECH": speech, "OUT": tmp_path / "out"}
    places["EMPTY"] = tmp_path / "empty"
    named = [str(places[a]) if a in places else a.replace("SPEECH", str(speech)) for a in arguments]
    places["EMPTY"].mkdir()
    before = set(tmp_path.rglob("*"))
    check_refused(call(*named), said)
    assert set(tmp_path.rglob("*")) == before, "nothing is left half-written"


def test_evaluate_writes_the_documented_keys(
    model: Path, speech: Path, tmp_path: Path, call: Call
) -> None:
    scores = tmp_path / "scores.json"
    for streaming in ([], ["--streaming"]):
        ended = call("evaluate", model, "--corpus", speech, *streaming, "--json", scores)
        assert ended.code == 0 and "WER" in ended.out
        found = json.loads(scores.read_text())
        assert found.keys() >= EVALUATE_KEYS
        assert found["utterances"] == 2
        assert found["words"] == 4
        assert found["unreadable"] == 1
        assert found["bytes"] == model.stat().st_size
        assert found["peak_rss_bytes"] > 50e6
        assert found["streaming"] == bool(streaming)


@pytest.mark.parametrize("to", ["packed", "onnx"])
def test_what_was_exported_is_evaluated_too(
    model: Path, speech: Path, tmp_path: Path, call: Call, to: str
) -> None:
    out, scores = tmp_path / "out.pocket", tmp_path / "scores.json"
    assert call("export", model, "--to", to, "--out", out).code == 0
    here = ("--runtime", "torch") if to == "packed" else ()  # the engine would stream, too
    assert call("evaluate", out, "--corpus", speech, "--json", scores, *here).code == 0
    found = json.loads(scores.read_text())
    assert found["utterances"] == 2 and found["streaming"] == (to == "onnx"), "it knows no else"
    assert found["bytes"] == json.loads(call("size", out, "--json").out)["bytes"]
    assert call("transcribe", out, speech / "a.wav").code == 0


def test_transcribe_prints_one_object_a_file(talkative: Path, speech: Path, call: Call) -> None:
    ended = call("transcribe", talkative, speech / "a.wav", speech / "b.flac", "--json")
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["path"] for line in lines] == [str(speech / "a.wav"), str(speech / "b.flac")]
    for line in lines:
        assert line.keys() == {"path", "text", "tokens", "timestamps", "words"}
        assert len(line["tokens"]) == len(line["timestamps"]) > 0
        assert [word["word"] for word in line["words"]] == line["text"].split() != []
        for word in line["words"]:
            assert word.keys() == {"word", "start", "end", "confidence"}
            assert word["start"] < word["end"] and 0 < word["confidence"] <= 1


def test_a_language_model_is_learnt_and_listened_to(
    talkative: Path, speech: Path, tmp_path: Path, call: Call
) -> None:
    """Also by a folder for sherpa-onnx, which gives its units and takes the model."""
    folder, out = tmp_path / "folder", tmp_path / "digits.lm"
    assert call("export", talkative, "--to", "sherpa-onnx", "--out", folder).code == 0
    for name, words in (("a", "one two three"), ("b", "three four")):
        (tmp_path / f"{name}.txt").write_text(words)
    texts = ("--text", tmp_path / "a.txt", "--text", tmp_path / "b.txt")
    text = (*texts, "--root", speech)
    for model in (talkative, folder):
        ended = call("lm", model, *text, "--order", "3", "--budget", "6kB", "--out", out)
        assert ended.code == 0 and "from 2 sentences; left out: 0" in ended.out
        assert out.stat().st_size <= 6000
        options = ("--lm", out, "--lm-scale", "0.5", "--hotword", "THREE")
        assert call("transcribe", model, speech / "a.wav", *options).code == 0


def test_size_equals_the_exported_file(model: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "half.safetensors"
    assert call("export", model, "--to", "safetensors", "--out", out).code == 0
    found = json.loads(call("size", out, "--json").out)
    assert found.keys() == {
        "bytes",
        "bits_per_weight",
        "parameters_stored",
        "parameters_virtual",
        "parts",
        "tensors",
        "layers",
        "state_bytes",
    }
    assert found["bytes"] == out.stat().st_size == sum(found["parts"].values())


def test_prepare_counts_and_lists_what_is_bad(speech: Path, tmp_path: Path, call: Call) -> None:
    """One of three is bad, more than the share that is let pass: refused, but listed."""
    prepare = ("prepare", speech, "--split", "test", "--out", tmp_path / "out")
    check_refused(call(*prepare), "1 of 3 items are bad")
    [listed] = (tmp_path / "out").glob("[!.]*")
    assert "c.wav: not readable as audio" in listed.read_text()
    manifest = speech / "manifest.tsv"
    manifest.write_text(manifest.read_text().replace("c.wav\tone two\ttest\n", ""))
    ended = call(*prepare)
    assert ended.code == 0 and "2 utterances" in ended.out


def test_without_a_command_there_is_the_help_and_nothing_more(call: Call) -> None:
    ended = call()
    assert ended.code == 2 and "Usage:" in ended.out + ended.err
    assert "pocketscribe: " not in ended.err


RECIPES = {  # what is wrong with a recipe file, and what is said about it
    "[speech": "wrong.toml: not readable as TOML",
    "": "wrong.toml: key 'speech' is missing",
    TINY_RECIPE + "seed = 'x'": 'stage.0.seed = "x": input should be a valid integer',
    TINY_RECIPE + "sed = 1": "unknown key 'stage.0.sed'; did you mean 'seed'?",
    TINY_RECIPE + "from = 'first'": "'first' is no earlier stage (earlier: none; ",
    TINY_RECIPE.replace("width = 16", "width = 18"): "encoder.width / heads = 9 must be even",
    TINY_RECIPE.replace("synthetic", "fsdd"): "'count' belongs to corpus = 'synthetic' alone",
    TINY_RECIPE.replace("test = [{", 'test = [{ corpus = "gone" }, {'): "neither a folder nor a",
    TINY_RECIPE + TINY_RECIPE[TINY_RECIPE.index("[[stage]]") :]: "two stages are named 'float'",
}


@pytest.mark.parametrize("text", RECIPES)
def test_a_wrong_recipe_file_is_one_line_and_leaves_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.toml").write_text(text)
    ended = call("run", "wrong.toml")
    check_refused(ended, RECIPES[text])
    assert ended.out.strip() == ""
    assert [p.name for p in tmp_path.rglob("*")] == ["wrong.toml"]


def test_a_folder_of_another_run_is_refused(tiny_run: Path, call: Call) -> None:
    recipe = tiny_run.with_name("tiny.toml")
    ended = call("run", recipe, "--out", tiny_run, "--set", "model.joiner=8")
    check_refused(ended, "holds a run with another [model]; choose another --out")


def test_a_finished_run_ends_with_its_table_again(tiny_run: Path, call: Call) -> None:
    ended = call("run", tiny_run.with_name("tiny.toml"), "--out", tiny_run)
    assert ended.code == 0
    for shown in ("WER [95% CI]", "synthetic dev", "synthetic test"):
        assert shown in ended.out


def test_a_run_is_evaluated_sized_and_reported(
    tiny_run: Path, speech: Path, tmp_path: Path, call: Call
) -> None:
    assert "4 words in 2 utterances" in call("evaluate", tiny_run, "--corpus", speech).out
    assert "encoder.blocks.0" in call("size", tiny_run).out
    assert call("report", tiny_run, "--out", tmp_path / "report").code == 0
    written = {p.suffix for p in (tmp_path / "report").iterdir()}
    assert written == {".json", ".md", ".html", ".png"}


def test_a_recipe_is_sized_untrained(call: Call) -> None:
    assert "counted with 30 units; the transcripts decide" in call("size", "quickstart").out
    taken = "counted as what they come from, until a search has run: halfway 15MB, student 10MB"
    assert taken in call("size", "fit_librispeech").out


def test_audio_of_any_format_and_rate(talkative: Path, tmp_path: Path, call: Call) -> None:
    samples = np.round(digits()[1] * 32768) / 32768  # what 16 bits hold
    stereo = np.stack([1.5 * samples, 0.5 * samples], axis=1)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    soundfile.write(tmp_path / "b.flac", samples, 16000)
    soundfile.write(tmp_path / "c.wav", stereo, 16000, subtype="FLOAT")  # its average
    soundfile.write(tmp_path / "d.wav", samples[::2], 8000)
    soundfile.write(tmp_path / "e.ogg", samples, 16000)
    texts = []
    for name in ("a.wav", "b.flac", "c.wav", "d.wav", "e.ogg"):
        ended = call("transcribe", talkative, tmp_path / name, "--json")
        assert ended.code == 0
        texts.append(json.loads(ended.out)["text"])
    # What another rate or a lossy format does to an untrained model's text is anyone's guess.
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) > 3, "the test must compare something"
    assert call("transcribe", talkative, tmp_path / "a.wav").out == f"{texts[0]}\n"


def test_a_process_of_its_own() -> None:
    """`python -m pocketscribe`, as a shell sees it."""
    ended = subprocess.run(
        command("pocketscribe", "size", "nowhere"),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    check_refused(
        Ended(ended.returncode, ended.stdout, ended.stderr), "nowhere: neither a model nor"
    )
