"""Scoring a folder of audio with a runtime that says what the test wants."""

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console
from rich.progress import Progress

from pocketscribe.decoding.streaming import LiveStream, Transcript
from pocketscribe.errors import UserError
from pocketscribe.evaluation import evaluate as module
from pocketscribe.evaluation.evaluate import evaluate, peak_rss_bytes, speech_end, summary
from pocketscribe.evaluation.runtime import Runtime
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.models import ConformerConfig, ModelConfig, Recogniser
from pocketscribe.models.saved import Saved, save_model
from pocketscribe.speech.corpora import CorpusConfig
from pocketscribe.speech.prepare import prepare
from pocketscribe.speech.units import Units, UnitsConfig
from tiny import environment

RATE = 16000
DOCUMENTED = (
    "wer ci_low ci_high substitutions deletions insertions words utterances rtf audio_seconds "
    "parameters_stored parameters_virtual bytes peak_rss_bytes"
)
ERRORS = "wer ci_low ci_high substitutions deletions insertions words utterances"
EXTRAS = "emission_delay unreadable refused streaming groups hypotheses"
ROWS = [  # id, speaker, age, level of the tone, seconds, transcript
    ("a1", "ann", "child", 0.1, 1.0, "one two three"),
    ("a2", "ann", "child", 0.2, 0.5, "Four, five!"),
    ("b1", "bob", "adult", 0.3, 2.0, "six"),
]
SAID = {0.1: "ONE TWO THREE", 0.2: "FOUR X FIVE", 0.3: ""}


class Parrot:
    """Knows each utterance by its loudness; its last label comes `late` seconds in."""

    bytes = 1234
    parameters_stored = 10
    parameters_virtual = 20
    always_streams = False
    units = Units.learn(["ONE TWO THREE FOUR FIVE SIX SEVEN"], UnitsConfig(kind="char"))
    chunk = None
    card: ClassVar[dict[str, Any]] = {}

    def __init__(self, late: float = 1.0) -> None:
        self.late = late
        self.batches: list[tuple[int, bool]] = []

    def transcribe(self, audio: Sequence[np.ndarray], streaming: bool) -> list[Transcript]:
        self.batches.append((len(audio), streaming))
        return [self._one(samples) for samples in audio]

    def stream(self) -> LiveStream:
        raise NotImplementedError

    def _one(self, samples: np.ndarray) -> Transcript:
        text = SAID[round(float(np.abs(samples).max()), 1)]
        words = text.split()
        return Transcript(text, words, [self.late] * len(words))


def tone(level: float, seconds: float, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (level * np.sign(np.sin(2 * np.pi * 400 * time))).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = ["id\tpath\tspeaker\tage\tsplit\ttranscript"]
    for name, speaker, age, level, seconds, text in ROWS:
        soundfile.write(folder / f"{name}.wav", tone(level, seconds), RATE, subtype="FLOAT")
        lines.append(f"{name}\t{name}.wav\t{speaker}\t{age}\ttest\t{text}")
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return folder


def add(folder: Path, name: str, content: bytes | None, split: str = "test") -> None:
    """One more row, with a file of any content or none."""
    if content is not None:
        (folder / f"{name}.wav").write_bytes(content)
    with (folder / "manifest.tsv").open("a") as file:
        file.write(f"{name}\t{name}.wav\tcid\tadult\t{split}\tseven\n")


def part(folder: Path, **changes: object) -> CorpusConfig:
    return CorpusConfig(**{"corpus": str(folder), "split": "test", **changes})


def test_the_keys_are_the_documented_ones(folder: Path) -> None:
    assert isinstance(Parrot(), Runtime)
    result = evaluate(Parrot(), part(folder), None)
    assert list(result) == f"{DOCUMENTED} {EXTRAS}".split()
    assert result["words"] == 6 and result["utterances"] == 3
    # One inserted, one deleted; punctuation and case are no errors.
    assert (result["substitutions"], result["deletions"], result["insertions"]) == (0, 1, 1)
    assert result["wer"] == pytest.approx(2 / 6)
    assert result["audio_seconds"] == 3.5 and result["rtf"] >= 0
    assert (result["bytes"], result["parameters_stored"], result["parameters_virtual"]) == (
        1234,
        10,
        20,
    )
    assert result["peak_rss_bytes"] is None, "a process that trained before cannot tell"
    assert result["unreadable"] == 0 and result["groups"] == {}
    assert result["hypotheses"] == [
        {"id": "a1", "reference": "ONE TWO THREE", "hypothesis": "ONE TWO THREE"},
        {"id": "a2", "reference": "FOUR FIVE", "hypothesis": "FOUR X FIVE"},
        {"id": "b1", "reference": "SIX", "hypothesis": ""},
    ]
    rate = summary(result)
    assert rate.wer == result["wer"] and rate.ci_high == result["ci_high"]


def test_the_interval_is_over_speakers(folder: Path) -> None:
    result = evaluate(Parrot(), part(folder), None)
    # Draws: ann and ann (1 error in 5 words), or ann and bob, or bob and bob (1 in 1).
    assert (result["ci_low"], result["ci_high"]) == pytest.approx((0.2, 1.0))


def test_groups_are_scored_on_their_own(folder: Path) -> None:
    result = evaluate(Parrot(), part(folder, group="age"), None)
    assert list(result["groups"]) == ["adult", "child"]
    child, adult = result["groups"]["child"], result["groups"]["adult"]
    assert list(child) == ERRORS.split()
    assert (child["wer"], child["words"], child["utterances"]) == (pytest.approx(1 / 5), 5, 2)
    assert (adult["wer"], adult["words"], adult["deletions"]) == (1.0, 1, 1)
    assert list(evaluate(Parrot(), part(folder, group="speaker"), None)["groups"]) == ["ann", "bob"]


def test_a_mistyped_column_is_refused_with_those_there_are(folder: Path) -> None:
    with pytest.raises(UserError, match=r"--group agee: no such column; there are .*speaker.*age"):
        evaluate(Parrot(), part(folder, group="agee"), None)


def test_a_row_without_what_others_have_is_a_group_of_its_own(folder: Path) -> None:
    (folder / "manifest.tsv").unlink()
    rows: list[dict[str, str]] = [
        {"path": f"{name}.wav", "transcript": text, "split": "test"} for name, *_, text in ROWS
    ]
    rows[1]["age"] = "child"
    text = "".join(json.dumps(line) + "\n" for line in rows)
    (folder / "manifest.jsonl").write_text(text)
    groups = evaluate(Parrot(), part(folder, group="age"), None)["groups"]
    assert {age: found["utterances"] for age, found in groups.items()} == {"": 2, "child": 1}


def test_speakers_are_a_column_of_every_corpus(folder: Path) -> None:
    (folder / "manifest.tsv").unlink()
    for name, *_, text in ROWS:
        (folder / name[0]).mkdir(exist_ok=True)
        (folder / f"{name}.wav").rename(folder / name[0] / f"{name}.wav")
        (folder / name[0] / f"{name}.txt").write_text(text)
    result = evaluate(Parrot(), part(folder, group="speaker", split="all"), None)
    assert list(result["groups"]) == ["a", "b"]


def test_progress_ends_where_the_corpus_ends(folder: Path) -> None:
    with Progress(console=Console(file=io.StringIO(), force_terminal=True)) as bar:
        evaluate(Parrot(), part(folder), None, progress=bar)
        [task] = bar.tasks
        assert task.completed == task.total == 3


def test_without_the_resource_module_memory_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Path", lambda _: Path("/nowhere"))
    assert (peak_rss_bytes() or 0) > 50e3
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert peak_rss_bytes() is None


def test_memory_of_the_starting_process_does_not_count() -> None:
    """It does for getrusage, where a process with much memory starts another."""
    held = np.ones(40_000_000)  # 320 MB
    code = "from pocketscribe.evaluation.evaluate import peak_rss_bytes as p; print(p())"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert int(ended.stdout) < (peak_rss_bytes() or 0) - 100e6 and len(held)


def test_where_chooses(folder: Path) -> None:
    result = evaluate(Parrot(), part(folder, where={"age": "child"}), None)
    assert result["utterances"] == 2
    with pytest.raises(UserError, match="no utterance matches"):
        evaluate(Parrot(), part(folder, where={"age": "old"}), None)


@pytest.mark.parametrize("streaming", [False, True])
def test_streaming_is_handed_on(folder: Path, streaming: bool) -> None:
    runtime = Parrot()
    result = evaluate(runtime, part(folder), None, streaming=streaming)
    assert runtime.batches == [(3, streaming)] and result["streaming"] is streaming


@pytest.mark.parametrize("first", [True, False])
def test_unreadable_audio_is_counted_and_left_out(folder: Path, first: bool) -> None:
    plain = evaluate(Parrot(), part(folder), None)
    if first:
        text = (folder / "manifest.tsv").read_text()
        (folder / "manifest.tsv").write_text(text.splitlines()[0] + "\n")
    empty = folder.parent / "empty.wav"
    soundfile.write(empty, np.zeros(0, np.float32), RATE)
    add(folder, "noise", b"this is no audio")
    add(folder, "nothing", None)
    add(folder, "empty", empty.read_bytes())
    if first:
        with (folder / "manifest.tsv").open("a") as file:
            file.write("\n".join(text.splitlines()[1:]) + "\n")
    result = evaluate(Parrot(), part(folder), None)
    assert result["unreadable"] == 3
    assert [r["id"] for r in result["refused"]] == ["noise", "nothing", "empty"]
    same = f"{ERRORS} audio_seconds hypotheses".split()
    assert {k: result[k] for k in same} == {k: plain[k] for k in same}


def test_what_prepare_refuses_is_not_scored(folder: Path, tmp_path: Path) -> None:
    """A digit in a reference would be a word error that no recogniser can help."""
    plain = evaluate(Parrot(), part(folder), None)
    with (folder / "manifest.tsv").open("a") as file:
        for name, said in (("silent", ""), ("digits", "room 101"), ("a1", "one two three")):
            file.write(f"{name}\ta1.wav\tann\tchild\ttest\t{said}\n")
        soundfile.write(folder / "short.wav", tone(0.1, 0.05), RATE)
        file.write("short\tshort.wav\tann\tchild\ttest\tone\n")
    result = evaluate(Parrot(), part(folder), None)
    assert [result[key] for key in ERRORS.split()] == [plain[key] for key in ERRORS.split()]
    prepared = prepare(part(folder), None, tmp_path / "out", bad_share=0.9)
    rows = (prepared.folder / "bad.tsv").read_text().splitlines()[1:]
    reasons = {r["id"]: r["reason"].removesuffix(" or more") for r in result["refused"]}
    assert set(reasons) == {"silent", "digits", "a1", "short"} and result["unreadable"] == 4
    assert reasons == {k: v.removesuffix(" to 120 s") for k, v in (row.split("\t") for row in rows)}


def test_nothing_readable_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "manifest.tsv").write_text("id\tpath\tspeaker\tage\tsplit\ttranscript\n")
    add(tmp_path, "noise", b"this is no audio")
    with pytest.raises(
        UserError, match=r"nothing in it can be scored; the first: noise: .*not readable as audio"
    ):
        evaluate(Parrot(), part(tmp_path), None)
    with pytest.raises(UserError, match="neither a folder nor a corpus"):
        evaluate(Parrot(), part(tmp_path / "nowhere"), None)


def test_batches_are_bounded_padding_included(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(Parrot(), part(folder), None)
    for limit, counts in ((0.1, [1, 1, 1]), (2.0, [2, 1]), (2.5, [2, 1]), (100.0, [3])):
        monkeypatch.setattr(module, "BATCH_SECONDS", limit)
        runtime = Parrot()
        result = evaluate(runtime, part(folder), None)
        assert [count for count, _ in runtime.batches] == counts, limit
        assert result["hypotheses"] == expected["hypotheses"]
        assert result["wer"] == expected["wer"]


def test_emission_delay_is_positive_after_the_end_of_speech(folder: Path) -> None:
    """Of the two utterances with labels, speech ends at 1.0 s and 0.5 s."""
    assert evaluate(Parrot(1.2), part(folder), None)["emission_delay"] == pytest.approx(0.45)
    assert evaluate(Parrot(0.25), part(folder), None)["emission_delay"] == pytest.approx(-0.5)
    silent = evaluate(Parrot(), part(folder, where={"age": "adult"}), None)
    assert silent["emission_delay"] is None


def test_speech_ends_before_the_silence() -> None:
    quiet = np.zeros(RATE, np.float32)
    hiss = (0.0005 * np.random.default_rng(0).normal(size=RATE)).astype(np.float32)
    for after in (quiet, hiss, quiet[:3]):
        samples = np.concatenate([quiet, tone(0.3, 0.7), after])
        assert speech_end(samples) == pytest.approx(1.7, abs=0.011)
    assert speech_end(quiet[:0]) == 0.0 and speech_end(quiet[:100]) == 0.0


@pytest.mark.parametrize("streaming", [False, True])
def test_a_real_runtime_hears_the_shortest_audio(folder: Path, streaming: bool) -> None:
    units = Units.learn(["ONE TWO THREE FOUR FIVE SIX"], UnitsConfig(kind="char"))
    encoder = ConformerConfig(width=16, layers=1, heads=2, kernel=3, ffn=1)
    config = ModelConfig(encoder=encoder, predictor=8, joiner=8, subsampling=8)
    torch.manual_seed(0)
    path = folder.parent / "model.safetensors"
    save_model(path, Saved(Recogniser(config, len(units)), units.to_json()))
    runtime = TorchRuntime(path)
    audio = [tone(0.1, 1.0)[:count] for count in (1, 79, 80, 100, 159, 160, 400, 639, 640)]
    said = runtime.transcribe(audio, streaming)
    assert said == runtime.transcribe(audio, not streaming), "the same silence ends them"
    result = evaluate(runtime, part(folder), None, streaming=streaming)
    assert result["utterances"] == 3 and result["unreadable"] == 0
