"""What is bad is listed and stops nothing; what is good is prepared."""

import io
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from pocketscribe.errors import UserError
from pocketscribe.speech import items as listening
from pocketscribe.speech import prepare as preparing
from pocketscribe.speech.corpora import CorpusConfig
from pocketscribe.speech.features import MELS, fbank, read_audio
from pocketscribe.speech.items import Item
from pocketscribe.speech.prepare import Prepared, prepare, progress_bar
from small_corpora import MakeCorpus, left_behind, row, sound

QUANTISATION = 2**-6  # lilcom keeps multiples of 2^-5


def silent(name: str, **others: object) -> dict[str, object]:
    """A row whose audio is not made."""
    return {k: v for k, v in row(name, **others).items() if k != "seconds"}


def bad_items(prepared: Prepared) -> dict[str, str]:
    header, *lines = (prepared.folder / "bad.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "id\treason"
    return dict(line.split("\t") for line in lines)


def test_cuts_hold_text_speaker_columns_and_features(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    rows = [
        row("a", "It's a well-known house.", speaker="s1", age="child", seconds=0.731),
        row("b", "two", speaker="s2", age="adult", seconds=6.2),  # two of lilcom's chunks
    ]
    folder = make_corpus(rows)
    prepared = prepare(CorpusConfig(corpus=str(folder)), None, tmp_path / "out")
    a, b = prepared.cuts
    assert (a.id, a.supervisions[0].text) == ("a", "IT'S A WELL KNOWN HOUSE")
    assert (a.supervisions[0].speaker, a.supervisions[0].custom["age"]) == ("s1", "child")
    for cut in (a, b):
        samples = read_audio(folder / f"{cut.id}.wav")
        features = cut.load_features()
        assert features.dtype == np.float32
        assert features.shape == (cut.num_frames, MELS) == fbank(samples).shape
        np.testing.assert_allclose(features, fbank(samples), atol=QUANTISATION + 1e-4)
        np.testing.assert_array_equal(cut.load_audio()[0], samples)
    assert prepared.summary == {"utterances": 2, "seconds": 6.931, "bad": 0}
    assert bad_items(prepared) == {}


def test_bad_items_are_listed_with_the_reason_and_stop_nothing(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    rows = [row(f"good{n}") for n in range(3)]
    rows += [
        row("empty", ""),
        row("punctuation", "?! …"),
        row("digits", "room 101"),
        row("short", seconds=0.05),
        row("good1", "AGAIN"),
        silent("missing"),
        silent("broken"),
        silent("folder"),
    ]
    folder = make_corpus(rows)
    (folder / "broken.wav").write_bytes(b"RIFF, or so it says")
    (folder / "folder.wav").mkdir()
    prepared = prepare(CorpusConfig(corpus=str(folder)), None, tmp_path / "out", bad_share=0.8)
    assert [cut.id for cut in prepared.cuts] == ["good0", "good1", "good2"]
    assert next(iter(prepared.cuts.subset(cut_ids=["good1"]))).supervisions[0].text == "HELLO"
    reasons = bad_items(prepared)
    assert prepared.summary["utterances"] == 3 and prepared.summary["bad"] == 8 == len(reasons)
    assert {name: reason.split(str(folder))[-1] for name, reason in reasons.items()} == {
        "empty": "empty transcript",
        "punctuation": "empty transcript",
        "digits": "the transcript holds '1': spell it out",
        "short": "0.05 s long; allowed: 0.1 s to 120 s",
        "good1": "duplicate id",
        "missing": "/missing.wav: no such audio file",
        "broken": "/broken.wav: not readable as audio (Format not recognised.)",
        "folder": "/folder.wav: no such audio file",
    }


def test_too_long_audio_is_refused_undecoded(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_corpus([row("long"), row("good")])
    soundfile.write(folder / "long.wav", np.zeros(8000 * 121, np.int16), 8000)
    read: list[str] = []
    monkeypatch.setattr(listening, "read_audio", lambda p: (read.append(p.name), read_audio(p))[1])
    prepared = prepare(CorpusConfig(corpus=str(folder)), None, tmp_path / "out", bad_share=0.5)
    assert bad_items(prepared) == {"long": "121.00 s long; allowed: 0.1 s to 120 s"}
    assert read == ["good.wav"]


def test_more_bad_items_than_allowed_stop_the_run_and_leave_the_list(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    rows = [row(f"good{n}") for n in range(7)] + [row("x", ""), row("y", ""), row("z", "1")]
    config = CorpusConfig(corpus=str(make_corpus(rows)))
    out = tmp_path / "out"
    with pytest.raises(UserError, match="3 of 10 items are bad, more than 29%") as caught:
        prepare(config, None, out, bad_share=0.29)
    said = str(caught.value)
    assert said.endswith("x: empty transcript")
    assert left_behind(out) == ["mine-train.bad.tsv"] and str(out / "mine-train.bad.tsv") in said
    assert (out / "mine-train.bad.tsv").read_text().count("\n") == 4
    kept = prepare(config, None, out, bad_share=0.3)
    assert kept.summary["bad"] == 3
    with pytest.raises(UserError, match="3 of 10 items are bad") as caught:
        prepare(config, None, out, bad_share=0.29)  # what others have kept is no excuse
    assert str(kept.folder / "bad.tsv") in str(caught.value)


def test_any_rate_and_channels_are_resampled(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    rates = (8000, 11025, 16000, 22050, 44100, 48000)
    folder = make_corpus([row(f"r{rate}", rate=rate, seconds=0.4567) for rate in rates])
    stereo = np.stack([sound(0.5, 1), sound(0.5, 2)], axis=1)
    soundfile.write(folder / "r16000.wav", stereo, 16000)
    prepared = prepare(CorpusConfig(corpus=str(folder)), None, tmp_path / "out")
    assert prepared.summary["utterances"] == len(rates)
    for cut in prepared.cuts:
        samples = read_audio(folder / f"{cut.id}.wav")
        assert cut.sampling_rate == 16000 and abs(cut.duration - len(samples) / 16000) < 1e-3
        np.testing.assert_allclose(
            cut.load_features(), fbank(samples)[: cut.num_frames], atol=QUANTISATION + 1e-4
        )
        assert abs(cut.num_frames - len(fbank(samples))) <= 1
        # What lhotse would decode is resampled otherwise, and has all channels.
        assert cut.load_audio().shape[-1] == pytest.approx(len(samples), abs=1)


def test_frames_are_as_many_as_the_cut_says(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    # 80 samples round up to a frame, 79 do not.
    lengths = [n + rest for n in (4800, 80_000) for rest in (0, 1, 79, 80, 81, 159)]
    folder = make_corpus([row(f"n{n}", seconds=n / 16000) for n in lengths])
    for cut in prepare(CorpusConfig(corpus=str(folder)), None, tmp_path / "out").cuts:
        assert cut.num_frames == cut.features.num_frames == (int(cut.id[1:]) + 80) // 160
        assert len(cut.load_features()) == cut.num_frames


STRANGE = ["a/b/c", "../up", "with space", "ünï-код", "per%20cent", "q?*:|", "tab\u2003em", "-dash"]


@pytest.mark.parametrize("made_here", [False, True])
def test_ids_may_be_paths_and_other_oddities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_here: bool
) -> None:
    samples = {name: sound(0.3, seed) for seed, name in enumerate(STRANGE)}
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = []
    for number, (name, x) in enumerate(samples.items()):
        soundfile.write(folder / f"{number}.wav", x, 16000)
        lines.append(json.dumps({"id": name, "path": f"{number}.wav", "text": "hello"}) + "\n")
    (folder / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")
    if made_here:
        made = [Item(n, "hello", "s", made=partial(np.asarray, x)) for n, x in samples.items()]
        monkeypatch.setattr(preparing, "items", lambda *_: iter(made))
    prepared = prepare(CorpusConfig(corpus=str(folder)), None, tmp_path / "out")
    found = {cut.id: cut for cut in prepared.cuts}
    assert list(found) == STRANGE
    for name, cut in found.items():
        np.testing.assert_allclose(cut.load_features(), fbank(samples[name]), atol=0.1)  # 16 bits
        assert np.abs(cut.load_audio()[0] - samples[name]).max() < 1e-4
    written = list((prepared.folder / "audio").rglob("*"))
    assert len(written) == (len(STRANGE) if made_here else 0)
    assert {p.name for p in tmp_path.iterdir()} == {"mine", "out"}  # nothing went up


def test_a_tree_of_audio_beside_text(tmp_path: Path) -> None:
    for name in ("train/ann/one.wav", "train/bob/one.wav"):
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True)
        soundfile.write(path, sound(0.3), 16000)
        path.with_suffix(".txt").write_text("one")
        path.with_name(f"._{path.name}").write_bytes(b"what a Mac puts beside a file")
    prepared = prepare(CorpusConfig(corpus=str(tmp_path / "mine")), None, tmp_path / "out")
    assert prepared.summary["bad"] == 0
    assert [cut.id for cut in prepared.cuts] == ["train/ann/one.wav", "train/bob/one.wav"]
    assert [len(cut.load_features()) for cut in prepared.cuts] == [30, 30]


def test_synthetic_speech_brings_its_audio_along(tmp_path: Path) -> None:
    config = CorpusConfig(corpus="synthetic", kind="digits", count=3)
    prepared = prepare(config, None, tmp_path / "out")
    for cut in prepared.cuts:
        audio = cut.load_audio()[0]
        assert Path(cut.recording.sources[0].source).parent == prepared.folder / "audio"
        np.testing.assert_allclose(cut.load_features(), fbank(audio), atol=QUANTISATION + 1e-4)


def test_nothing_is_prepared_for_no_name(tmp_path: Path) -> None:
    for nameless in ({"corpus": ""}, {"corpus": ".", "split": ""}):
        with pytest.raises(UserError, match="need names"):
            prepare(CorpusConfig(**nameless), None, tmp_path)


def test_progress_is_shown_and_taken_away(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    screen = io.StringIO()
    folder = make_corpus([row("a"), row("b")])
    with progress_bar(Console(file=screen, force_terminal=True, width=120)) as bar:
        prepare(CorpusConfig(corpus=str(folder)), None, tmp_path / "out", progress=bar)
        assert bar.task_ids == []
        prepare(CorpusConfig(corpus=str(folder)), None, tmp_path / "out", progress=bar)
    assert "prepare mine train" in screen.getvalue()


def test_odd_names_make_one_plain_folder(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    folder = make_corpus([row("a", topic="x/y: ü")], name="my own.data")
    config = CorpusConfig(corpus=str(folder), where={"topic": "x/y: ü"})
    prepared = prepare(config, None, tmp_path / "out")
    assert prepared.folder.parent == tmp_path / "out"
    assert prepared.folder.name.startswith("my-own.data-train-topic_x-y--ü-")
    assert len(prepared.cuts.to_eager()) == 1
