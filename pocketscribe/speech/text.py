"""Transcripts: one plain spelling for all corpora."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from pocketscribe.errors import UserError

_APOSTROPHES = str.maketrans("\u2019\u02bc`\u00b4", "''''")
_SPOKEN = "#%&*@"  # punctuation to Unicode, yet read out


def normalise(text: str) -> str:
    """Upper case, punctuation dropped, white space folded: letters, marks and apostrophes stay."""
    text = unicodedata.normalize("NFC", text.upper()).translate(_APOSTROPHES)
    text = "".join(" " if _is_separator(c) else c for c in text if not _is_invisible(c))
    return " ".join(word for word in text.split() if word.strip("'"))


def unspellable(text: str) -> str | None:
    """The first character of a normalised text that a recogniser cannot write, if any."""
    return next((c for c in text if c not in " '" and unicodedata.category(c)[0] not in "LM"), None)


def read_sentences(path: Path) -> Iterator[tuple[int, str]]:
    """The number and the sentence of each line of a file of sentences.

    It has a sentence a line, or is a table of tabs whose header names a column `transcript`.

    Raises:
        UserError: there is no such file, it is no text, or a table without that column.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # with or without a mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{path}: not readable as text ({reason})") from None
    header = lines[0].split("\t") if lines else []
    if len(header) == 1 and header != ["transcript"]:
        yield from enumerate(lines, 1)
        return
    if lines and "transcript" not in header:
        raise UserError(f'{path}:1: no column "transcript" in the header of this table: name it so')
    for number, line in enumerate(lines[1:], 2):
        for cell in line.split("\t")[header.index("transcript") :][:1]:  # a short row has none
            yield number, cell


def _is_separator(c: str) -> bool:
    # Symbols and digits are not dropped: they were spoken, and must be spelt out by the owner.
    return c != "'" and c not in _SPOKEN and unicodedata.category(c)[0] in "PZC"


def _is_invisible(c: str) -> bool:
    """What shapes letters or says where a word may be broken: joiners, a soft hyphen, a mark."""
    return unicodedata.category(c) == "Cf"
