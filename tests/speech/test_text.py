"""One spelling for all corpora: what is dropped, what is kept, what must be spelt out."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketscribe.errors import UserError
from pocketscribe.speech.text import normalise, read_sentences, unspellable


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


def test_sentences_of_a_file(tmp_path: Path) -> None:
    table, lines, column = tmp_path / "a.tsv", tmp_path / "b.txt", tmp_path / "c.tsv"
    table.write_text("id\ttranscript\tmore\n1\tONE TWO\tx\n2\n3\tTHREE\n")
    lines.write_text("\ufeffONE TWO\n\nTHREE\n")
    column.write_text("transcript\nONE TWO\nTHREE\n")
    assert list(read_sentences(table)) == [(2, "ONE TWO"), (4, "THREE")]
    assert list(read_sentences(lines)) == [(1, "ONE TWO"), (2, ""), (3, "THREE")]
    assert list(read_sentences(column)) == [(2, "ONE TWO"), (3, "THREE")]
    lines.write_text("")
    assert list(read_sentences(lines)) == []


def test_what_holds_no_sentences_is_refused(tmp_path: Path) -> None:
    sound, table = tmp_path / "sound.flac", tmp_path / "table.tsv"
    sound.write_bytes(b"fLaC\xff\xf8")
    table.write_text("id\ttext\n1\tONE TWO\n")
    for path, says in (
        (tmp_path / "gone", "gone: not readable as text .No such file"),
        (tmp_path, "not readable as text"),
        (sound, "not readable as text .it is not UTF-8"),
        (table, 'table.tsv:1: no column "transcript"'),
    ):
        with pytest.raises(UserError, match=says):
            list(read_sentences(path))


def test_what_cannot_be_seen_breaks_no_word() -> None:
    """A soft hyphen; joiners, which letters of many scripts are shaped by."""
    assert normalise("co\u00adoperate") == "COOPERATE"
    assert normalise("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645").count(" ") == 0
    assert normalise("a\u00a0b\u2009c") == "A B C"
