"""How to search: what a user may choose, and searches that are started by it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from pocketscribe.config import Config
from pocketscribe.decoding.beam import BeamSearch, Guide
from pocketscribe.decoding.fusion import ShallowFusion
from pocketscribe.decoding.hotwords import Hotwords
from pocketscribe.decoding.search import CtcSearch, GreedySearch, Search, TransducerScorer
from pocketscribe.errors import UserError
from pocketscribe.lm.ngram import load
from pocketscribe.speech.text import normalise
from pocketscribe.speech.units import UNKNOWN, Units

Width = Annotated[int, Field(ge=1, le=1000)]  # of a beam; 1 is greedy
GUIDED_BEAM = 16
MOST_NATS = 1000.0  # of a guide, a unit: all else is nothing beside it
CTC_BEAM = (
    "beam search needs a transducer; this model has a CTC head: "
    "use greedy, without language model and hotwords"
)


class DecodingConfig(Config):
    """How to look for the text.

    Attributes:
        beam: width of the beam search; 1 is greedy. If not given: 16 with a language model or
            hotwords, else 1.
        lm: a language model's file (`pocketscribe lm`).
        lm_scale: what its log-probabilities are multiplied by (shallow fusion).
        label_bonus: with a language model, added for each label: it would rather have few.
        hotwords: phrases to prefer.
        hotword_score: what each unit of such a phrase is worth, in nats.
    """

    beam: Width | None = None
    lm: Path | None = None
    lm_scale: float = Field(default=0.4, ge=0, le=MOST_NATS)
    label_bonus: float = Field(default=0.4, ge=-MOST_NATS, le=MOST_NATS)
    hotwords: tuple[str, ...] = ()
    hotword_score: float = Field(default=1.5, ge=0, le=MOST_NATS)

    @model_validator(mode="after")
    def _check(self) -> "DecodingConfig":
        given = self.model_fields_set
        if self.lm is None and (idle := given & {"lm_scale", "label_bonus"}):
            raise ValueError(f"{sorted(idle)[0]} belongs to a language model: give --lm FILE too")
        if not self.hotwords and "hotword_score" in given:
            raise ValueError("hotword_score belongs to hotwords: give --hotword PHRASE too")
        return self

    @classmethod
    def given(cls, source: str, **options: Any) -> "DecodingConfig":
        """Of options, those that were given; None was not. Raises UserError as `read`."""
        told = {name: value for name, value in options.items() if value is not None}
        return cls.read(told, source)

    @property
    def width(self) -> int:
        """Of the beam.

        Raises:
            UserError: greedy search was asked to follow a language model or hotwords.
        """
        guided = "a language model" if self.lm else "hotwords" if self.hotwords else None
        if self.beam == 1 and guided:
            raise UserError(f"--beam 1: {guided} needs a beam; give --beam {GUIDED_BEAM}")
        return self.beam or (GUIDED_BEAM if guided else 1)


GREEDY = DecodingConfig()


@dataclass(frozen=True)
class Searcher:
    """What a `DecodingConfig` names, opened once for any number of searches."""

    beam: int = 1
    guides: tuple[Guide, ...] = ()

    @classmethod
    def open(cls, config: DecodingConfig, units: Units) -> "Searcher":
        """Reads the config's language model; `units` are the recogniser's.

        Raises:
            UserError: the language model does not fit, or a hotword cannot be spelt.
        """
        guides: list[Guide] = []
        if config.lm is not None:
            model = load(config.lm, units)
            guides.append(ShallowFusion(model, config.lm_scale, config.label_bonus))
        if config.hotwords:
            phrases = [spelt(phrase, units) for phrase in config.hotwords]
            guides.append(Hotwords(phrases, config.hotword_score, len(units)))
        return cls(config.width, tuple(guides))

    def start(self, scorer: TransducerScorer | None, streams: int) -> Search:
        """A search over new streams; `scorer` is None for a CTC head.

        Raises:
            UserError: beam search was asked of a CTC head.
        """
        if scorer is not None:
            if self.beam == 1:
                return GreedySearch(scorer, streams)
            return BeamSearch(scorer, streams, self.beam, self.guides)
        if self.beam > 1:
            raise UserError(CTC_BEAM)
        return CtcSearch(streams)


def spelt(phrase: str, units: Units) -> list[int]:
    """A hotword in the recogniser's units; UserError where it has none for it."""
    labels = units.encode(normalise(phrase))
    if not labels or UNKNOWN in labels:
        raise UserError(f"hotword {phrase!r}: this model cannot spell it; write it as it is spoken")
    return labels


def read_hotwords(named: Iterable[str], path: Path | None) -> tuple[str, ...]:
    """Hotwords as they were named, and those of a file, one a line; UserError if it is no text."""
    if path is None:
        return tuple(named)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--hotwords {path}: not readable as text ({error})") from None
    return (*named, *(line for line in lines if line.strip()))
