"""One spelling for all corpora: what is dropped, what is kept, what must be spelt out."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketscribe.speech.text import normalise, unspellable


@pytest.mark.parametrize(
    ("written", "spelling"),
    [
        ("Hello, world!", "HELLO WORLD"),
        ("  two\t words\n", "TWO WORDS"),
        ("It’s o`clock, don´t", "IT'S O'CLOCK DON'T"),
        ("well-known “words” – here…", "WELL KNOWN WORDS HERE"),
        ("the dogs' ' '' bowl", "THE DOGS' BOWL"),
        ("cafe\u0301", "CAFÉ"),
        ("straße", "STRASSE"),
        ("привет, мир", "ПРИВЕТ МИР"),
        ("नमस्ते।", "नमस्ते"),
        ("\ufeffhello", "HELLO"),
        ("", ""),
        (" .,?! ' ", ""),
    ],
)
def test_spelling(written: str, spelling: str) -> None:
    assert normalise(written) == spelling
    assert unspellable(spelling) is None


@pytest.mark.parametrize(
    ("written", "character"),
    [("room 101", "1"), ("$ five", "$"), ("rock & roll", "&"), ("me@home", "@"), ("50 %", "5")],
)
def test_what_was_spoken_is_not_dropped_in_silence(written: str, character: str) -> None:
    assert unspellable(normalise(written)) == character


@given(st.text())
def test_normalising_again_changes_nothing(written: str) -> None:
    once = normalise(written)
    assert normalise(once) == once
    assert once == once.strip() and "  " not in once
    assert unicodedata.is_normalized("NFC", once)
