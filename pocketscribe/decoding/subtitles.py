"""Subtitles: words in short cues, as SubRip (.srt) or WebVTT (.vtt)."""

from collections.abc import Sequence
from itertools import pairwise

from pocketscribe.decoding.streaming import Word

LETTERS = 84  # of a cue: two lines on a television
SECONDS = 6.0  # of a cue
PAUSE = 1.0  # between two words: a new cue
READING = 1.0  # a cue stays as long, unless the next one comes


def subtitles(words: Sequence[Word], form: str) -> str:
    """The text of a .srt or .vtt file; `form` is the suffix without its dot."""
    cues: list[list[Word]] = []
    for word in words:
        if cues and _fits(word, cues[-1]):
            cues[-1].append(word)
        else:
            cues.append([word])
    starts = [cue[0].start for cue in cues] + [float("inf")]
    lines = [] if form == "srt" else ["WEBVTT", ""]
    for number, (cue, (start, following)) in enumerate(
        zip(cues, pairwise(starts), strict=True), start=1
    ):
        end = min(max(cue[-1].end, start + READING), following)
        lines += [str(number)] if form == "srt" else []
        lines += [f"{_clock(start, form)} --> {_clock(end, form)}"]
        lines += [" ".join(word.word for word in cue), ""]
    return "\n".join(lines)


def _fits(word: Word, cue: Sequence[Word]) -> bool:
    letters = sum(len(w.word) + 1 for w in cue) + len(word.word)
    soon = word.start - cue[-1].end < PAUSE and word.end - cue[0].start <= SECONDS
    return soon and letters <= LETTERS


def _clock(seconds: float, form: str) -> str:
    """Hours, minutes, seconds; SubRip wants a comma before the milliseconds."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    mark = "," if form == "srt" else "."
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{mark}{thousandths:03}"
