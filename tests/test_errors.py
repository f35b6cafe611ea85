"""Whatever an error says fits in one line of a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketscribe.errors import LONGEST_LINE, UserError, one_line


@given(st.text(st.characters()))
def test_any_message_becomes_one_printable_line(message: str) -> None:
    """Line ends of every script, control characters and halves of surrogate pairs among them."""
    for said in (message, message * LONGEST_LINE):
        line = str(UserError(said))
        assert line.isprintable() and len(line) <= LONGEST_LINE
        assert line == one_line(said) == one_line(line)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("x.toml: width = 3", "x.toml: width = 3"),
        ("a\n  b\tc", "a b c"),
        ("\x1b[2Jx\ud800\0", "\ufffd[2Jx\ufffd\ufffd"),  # no terminal obeys it
        ("x" * LONGEST_LINE, "x" * LONGEST_LINE),
        ("x" * 10**6, "x" * (LONGEST_LINE - 1) + "…"),
    ],
    ids=["good", "lines", "commands", "long", "too long"],
)
def test_what_becomes_of_a_message(message: str, line: str) -> None:
    assert str(UserError(message)) == one_line(message) == line
