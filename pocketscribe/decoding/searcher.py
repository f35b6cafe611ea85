"""How to search: what a user may choose, and searches that are started by it."""

from dataclasses import dataclass

from pydantic import Field

from pocketscribe.config import Config
from pocketscribe.decoding.beam import BeamSearch
from pocketscribe.decoding.search import CtcSearch, GreedySearch, Search, TransducerScorer
from pocketscribe.errors import UserError
from pocketscribe.speech.units import Units


class SearchConfig(Config):
    """How to look for the text.

    Attributes:
        beam: width of the beam search; 1 is greedy.
    """

    beam: int = Field(default=1, ge=1)


GREEDY = SearchConfig()


@dataclass(frozen=True)
class Searcher:
    """What a `SearchConfig` names, opened once for any number of searches."""

    beam: int = 1

    @classmethod
    def open(cls, config: SearchConfig, units: Units) -> "Searcher":
        """Reads the config's files; `units` are the recogniser's."""
        return cls(config.beam)

    def start(self, scorer: TransducerScorer | None, streams: int) -> Search:
        """A search over new streams; `scorer` is None for a CTC head.

        Raises:
            UserError: beam search was asked of a CTC head.
        """
        if scorer is not None:
            if self.beam == 1:
                return GreedySearch(scorer, streams)
            return BeamSearch(scorer, streams, self.beam)
        if self.beam > 1:
            raise UserError("beam search needs a transducer; this model has a CTC head: use greedy")
        return CtcSearch(streams)
