"""Cues that can be read: short, in time, never two at once."""

import re

import pytest

from pocketscribe.decoding.streaming import Word
from pocketscribe.decoding.subtitles import LETTERS, READING, SECONDS, subtitles


def words(*times: tuple[float, float]) -> list[Word]:
    return [Word(f"W{i}", start, end, None) for i, (start, end) in enumerate(times)]


def test_srt() -> None:
    said = words((0.4, 0.8), (1.0, 1.2), (3661.5, 3661.6))
    assert subtitles(said, "srt") == (
        "1\n00:00:00,400 --> 00:00:01,400\nW0 W1\n\n2\n01:01:01,500 --> 01:01:02,500\nW2\n"
    )


def test_vtt() -> None:
    said = words((0.4, 0.8), (1.9, 2.0))
    assert subtitles(said, "vtt") == (
        "WEBVTT\n\n00:00:00.400 --> 00:00:01.400\nW0\n\n00:00:01.900 --> 00:00:02.900\nW1\n"
    )


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_silence_has_no_cue(form: str) -> None:
    assert subtitles([], form).strip() == ("WEBVTT" if form == "vtt" else "")


@pytest.mark.parametrize("step", [0.04, 0.4, 0.9, 1.5])
def test_no_cue_is_too_long_and_none_covers_the_next(step: float) -> None:
    said = [Word("ABCDEFG" * (i % 3 + 1), i * step, i * step + 0.04, 0.5) for i in range(200)]
    text = subtitles(said, "vtt")
    cues = re.findall(r"(\S+) --> (\S+)\n(.*)\n", text)
    assert " ".join(cue for *_, cue in cues) == " ".join(word.word for word in said)
    last = 0.0
    for start, end, cue in cues:
        assert len(cue) <= LETTERS
        first, until = (
            sum(float(x) * 60**i for i, x in enumerate(t.split(":")[::-1])) for t in (start, end)
        )
        assert last <= first < until <= first + max(SECONDS, READING) + 1e-6
        last = until
