"""The synthetic corpus: the same seed gives the same speech, splits share no voice, errors are one
line.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pocketscribe.errors import UserError
from pocketscribe.speech.features import SAMPLE_RATE
from pocketscribe.speech.held_out import HeldOut
from pocketscribe.speech.synthesis import Voice, synthesise
from pocketscribe.speech.synthetic import SPLITS, SyntheticSpeech, read_phrases, voices


def test_espeak_repeats_itself_whatever_was_said_before() -> None:
    sample = voices("train")[::11] + voices("dev")[::3] + voices("test")[::5]
    first = {voice: synthesise(voice, "please bring seven yellow chairs") for voice in sample}
    for voice in reversed(sample):
        synthesise(Voice("espeak", "en-029", "f1", rate=1.3), "something else")
        again = synthesise(voice, "please bring seven yellow chairs")
        np.testing.assert_array_equal(again, first[voice])
    assert len({samples.tobytes() for samples in first.values()}) == len(sample)


_SAY_GOOD_MORNING = """
import sys
from pocketscribe.speech.held_out import HeldOut
from pocketscribe.speech.synthesis import Voice, synthesise
voice = Voice("espeak", "en-us", "f3", pitch=1.3)
sys.stdout.buffer.write(synthesise(voice, "good morning").tobytes())
"""


def test_a_fresh_process_says_the_same() -> None:
    voice = Voice("espeak", "en-us", "f3", pitch=1.3)
    synthesise(voice, "something else")
    fresh = subprocess.run(
        [sys.executable, "-c", _SAY_GOOD_MORNING], capture_output=True, check=True
    ).stdout
    assert synthesise(voice, "good morning").tobytes() == fresh


@pytest.mark.parametrize("kind", ["digits", "sentences"])
def test_utterances_are_plausible_speech(kind: str) -> None:
    corpus = SyntheticSpeech(kind=kind, count=40, split="train", seed=3)
    for utterance in corpus.utterances():
        assert re.fullmatch(r"[A-Z']+( [A-Z']+)*", utterance.text)
        assert utterance.samples.dtype == np.float32 and utterance.samples.ndim == 1
        peak, rms = np.abs(utterance.samples).max(), utterance.samples.std()
        assert 0.03 < peak <= 1.0 and 0.005 < rms < 0.3
        seconds, words = utterance.samples.size / SAMPLE_RATE, len(utterance.text.split())
        assert 0.1 * words < seconds < 0.9 * words + 1.5


def test_utterance_depends_on_seed_split_and_index_only() -> None:
    corpus = SyntheticSpeech(kind="sentences", count=6, split="train", seed=1)
    in_order = list(corpus.utterances())
    longer = SyntheticSpeech(kind="sentences", count=60, split="train", seed=1)
    for index in (5, 0, 3):
        alone = longer.utterance(index)
        assert (alone.id, alone.text, alone.speaker) == (
            in_order[index].id,
            in_order[index].text,
            in_order[index].speaker,
        )
        np.testing.assert_array_equal(alone.samples, in_order[index].samples)
    other = SyntheticSpeech(kind="sentences", count=6, split="train", seed=2)
    assert [u.text for u in other.utterances()] != [u.text for u in in_order]
    with pytest.raises(IndexError):
        corpus.utterance(6)


def test_splits_share_no_variant_no_accent_and_no_sentence() -> None:
    seen: dict[str, set[str]] = {"variant": set(), "accent": set(), "text": set()}
    for split in SPLITS:
        inventory = voices(split, ("espeak", "flite"))
        assert len({voice.speaker for voice in inventory}) == len(inventory)
        corpus = SyntheticSpeech(kind="sentences", count=40, split=split)
        found = {
            "variant": {f"{voice.engine} {voice.variant}" for voice in inventory},
            "accent": {voice.accent for voice in inventory if voice.engine == "espeak"},
            "text": {utterance.text for utterance in corpus.utterances()},
        }
        for what, values in found.items():
            assert not values & seen[what]
            seen[what] |= values


def test_every_voice_is_in_the_data() -> None:
    for split in SPLITS:
        for voice in voices(split):
            assert synthesise(voice, "no").size > 0.1 * SAMPLE_RATE


def test_pitch_and_rate_do_what_they_say() -> None:
    def at(**factors: float) -> np.ndarray:
        return synthesise(Voice("espeak", "en-us", "m1", **factors), "where is my blue umbrella")

    def fundamental(samples: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(samples, 4 * samples.size)) ** 2
        autocorrelation = np.fft.irfft(power)
        lags = np.arange(SAMPLE_RATE // 400, SAMPLE_RATE // 60)
        return SAMPLE_RATE / lags[np.argmax(autocorrelation[lags])]

    assert at(rate=0.75).size > 1.4 * at(rate=1.3).size
    # 16 kHz, not the engine's 22.05: a wrong rate would put a man's 95 Hz at 69 or 131.
    assert 80 < fundamental(at(range=0.3)) < 115
    assert 1.3 < fundamental(at(range=0.3, pitch=1.5)) / fundamental(at(range=0.3)) < 1.7


def test_without_flite_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"flite.*install"):
        SyntheticSpeech(kind="digits", count=1, split="train", engines=("espeak", "flite"))


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_flite_speaks_when_present() -> None:
    for split in SPLITS:
        corpus = SyntheticSpeech(kind="digits", count=2, split=split, engines=("flite",))
        for utterance, again in zip(corpus.utterances(), corpus.utterances(), strict=True):
            assert utterance.speaker.startswith("flite-")
            assert utterance.samples.std() > 0.005
            np.testing.assert_array_equal(utterance.samples, again.samples)


def test_own_texts_are_cut_into_even_phrases(tmp_path: Path) -> None:
    table = tmp_path / "mine.tsv"
    table.write_text(
        "id\ttranscript\na\tWELL DONE\nb\t" + " ".join(["WORD"] * 26) + "\nc\tIt’s a café.\n"
    )
    assert [len(phrase.split()) for phrase in read_phrases(table, 12, HeldOut(()))] == [
        2,
        8,
        9,
        9,
        3,
    ]
    assert read_phrases(table, 12, HeldOut(()))[-1] == "IT'S A CAFE"
    plain = tmp_path / "mine.txt"
    plain.write_text("one sentence\n\nand another\n")
    corpus = SyntheticSpeech(kind="sentences", count=4, split="dev", texts=plain)
    spoken = [utterance.text for utterance in corpus.utterances()]
    assert set(spoken[:2]) == {"ONE SENTENCE", "AND ANOTHER"} and spoken[:2] == spoken[2:]
    assert corpus.utterance(0).id == "synthetic-mine-dev-0-000000"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("", "no sentences"),
        ("id\ttext\na\tHELLO\n", ":1: no column"),
        ("hello\nroom 101\n", ':2: "1"'),
    ],
)
def test_a_bad_text_file_is_one_line(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "texts.tsv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=says):
        SyntheticSpeech(kind="sentences", count=1, split="train", texts=path)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "songs"}, 'kind = "songs": use one of digits, sentences'),
        ({"split": "all"}, 'split = "all": use one of train, dev, test'),
        ({"count": 0}, "count = 0: use 1 or more"),
        ({"max_words": 0}, "max_words = 0: use 1 or more"),
        ({"engines": ()}, "engines is empty"),
        ({"engines": ("hal",)}, 'no speech engine "hal": use "espeak" or "flite"'),
        ({"texts": Path("mine.txt")}, 'texts are spoken with kind = "sentences" only'),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        SyntheticSpeech(**{"kind": "digits", "count": 1, "split": "train", **fields})


def test_unknown_voice_is_one_line() -> None:
    for voice in (Voice("espeak", "en-us", "nobody"), Voice("espeak", "en-mars", "f1")):
        with pytest.raises(UserError, match="has no"):
            synthesise(voice, "hello")
