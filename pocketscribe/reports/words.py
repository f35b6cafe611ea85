"""Which utterances are heard worst, and what was heard in them, word by word."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import kaldialign

from pocketscribe.evaluation.wer import score
from pocketscribe.reports.markup import Markup, join, tag
from pocketscribe.reports.runs import Row

GAP = " "  # no word is that


@dataclass(frozen=True)
class Heard:
    """What one model made of an utterance."""

    row: Row
    hypothesis: str
    errors: int


@dataclass(frozen=True)
class Utterance:
    """An utterance, and what every model made of it: the best model of its part first."""

    id: str
    reference: str
    heard: tuple[Heard, ...]

    @property
    def errors(self) -> float:
        """Word errors, the mean over the models."""
        return sum(h.errors for h in self.heard) / len(self.heard)


def worst(rows: Iterable[Row], most: int) -> list[Utterance]:
    """The utterances of a part with the most word errors, the mean over the models: worst first."""
    found: dict[tuple[str, str], list[Heard]] = {}
    for row in sorted(rows, key=lambda row: row.result["wer"]):
        for said in row.result.get("hypotheses", ()):
            id, reference, hypothesis = said["id"], said["reference"], said["hypothesis"]
            errors = score(id, "", reference, hypothesis).errors
            found.setdefault((id, reference), []).append(Heard(row, hypothesis, errors))
    utterances = [Utterance(*key, tuple(heard)) for key, heard in found.items()]
    wrong = [u for u in utterances if u.errors]
    return sorted(wrong, key=lambda u: (-u.errors, u.id))[:most]


def aligned(reference: str, hypothesis: str) -> Sequence[tuple[str, str]]:
    """Words in pairs with as few errors as can be; `GAP` stands where one side has no word."""
    return kaldialign.align(reference.split(), hypothesis.split(), GAP)


def marked(reference: str, hypothesis: str) -> Markup:
    """The aligned words in a line; errors are told by signs and strokes, and by colour as well."""
    return join(*(join(_marked(*pair), " ") for pair in aligned(reference, hypothesis)))


def _marked(said: str, heard: str) -> Markup:
    if said == heard:
        return join(said)
    if heard == GAP:
        return tag("del", tag("i", "−", aria_hidden="true"), said, title="deleted")
    if said == GAP:
        return tag("ins", tag("i", "+", aria_hidden="true"), heard, title="inserted")
    arrow = tag("i", "→", aria_hidden="true")
    return tag("span", tag("del", said), arrow, tag("ins", heard), class_="sub", title="replaced")
