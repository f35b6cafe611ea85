"""Transcripts: one plain spelling for all corpora."""

import unicodedata

_APOSTROPHES = str.maketrans("\u2019\u02bc`\u00b4", "''''")
_SPOKEN = "#%&*@"  # punctuation to Unicode, yet read out


def normalise(text: str) -> str:
    """Upper case, punctuation dropped, white space folded: letters, marks and apostrophes stay."""
    text = unicodedata.normalize("NFC", text.upper()).translate(_APOSTROPHES)
    text = "".join(" " if _is_separator(c) else c for c in text)
    return " ".join(word for word in text.split() if word.strip("'"))


def unspellable(text: str) -> str | None:
    """The first character of a normalised text that a recogniser cannot write, if any."""
    return next((c for c in text if c not in " '" and unicodedata.category(c)[0] not in "LM"), None)


def _is_separator(c: str) -> bool:
    # Symbols and digits are not dropped: they were spoken, and must be spelt out by the owner.
    return c != "'" and c not in _SPOKEN and unicodedata.category(c)[0] in "PZC"
