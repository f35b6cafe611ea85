"""Sentences that are scored somewhere, and so are learnt nowhere: not by language models, not by
synthetic voices that read them to the recogniser.
"""

from collections.abc import Iterable
from hashlib import sha256

from pocketscribe.speech.text import normalise

RUN = 6  # consecutive words in common make two sentences one text


class HeldOut:
    """A set of sentences; another is in it where it says the same, or shares six words in a row."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self._sentences = {normalise(sentence) for sentence in sentences}
        self._runs = {run for sentence in self._sentences for run in _runs(sentence)}

    def __contains__(self, sentence: str) -> bool:
        sentence = normalise(sentence)
        return sentence in self._sentences or any(run in self._runs for run in _runs(sentence))

    def __len__(self) -> int:
        return len(self._sentences)

    @property
    def digest(self) -> str:
        """The same for the same sentences in any order."""
        return sha256("\n".join(sorted(self._sentences)).encode()).hexdigest()


def _runs(sentence: str) -> Iterable[str]:
    words = sentence.split()
    return (" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1))
