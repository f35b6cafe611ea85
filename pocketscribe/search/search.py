"""The search of a stage: proposes, scores by forward passes, remembers, confirms.

What is searched is dev word errors against bytes of the file (and milliseconds on a chunk), over
sizes and formats together: a 9 MB int8 model and a 9 MB int4 model are two candidates. Formats are
post-training ones: a candidate is a slice of the supernet, quantised as its file will be.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, field_validator, model_validator
from rich.progress import Progress as Bar

from pocketscribe.config import Config, FileName, read_bytes
from pocketscribe.errors import UserError, needs_engine, needs_extra
from pocketscribe.evaluation.dev import Heard, dev_errors
from pocketscribe.files import read_json, write_json
from pocketscribe.models import Recogniser, tensors
from pocketscribe.models.saved import Saved
from pocketscribe.models.subnets import Space, SpaceConfig
from pocketscribe.search.cost import FileBytes, Rules
from pocketscribe.search.deploy import packed_bytes, take
from pocketscribe.search.evolution import Evolution
from pocketscribe.search.frontier import Candidate, Confirmed, Costs, Point, best, frontier, near
from pocketscribe.search.latency import chunk_milliseconds
from pocketscribe.search.plot import pareto_plot
from pocketscribe.speech.units import Units
from pocketscribe.weights import FormatRule

WIDEST = Confirmed(wer=0.1111, ci_low=0.1111, ci_high=0.1111, words=999_999)  # on a card


class FormatsConfig(Config):
    """A way to ship: a name, and the rules that it stands for; none is float16."""

    name: FileName
    rules: tuple[FormatRule, ...] = Field(default=(), max_length=30)


class SearchConfig(Config):
    """What is searched among the sub-networks of a stage's model.

    Attributes:
        candidates: how many are scored in all, evenly shrunk ones in each format first.
        generation: how many between two looks at who is best.
        mutation: share of its genes that a mutation draws anew.
        utterances: of each dev part; every other one is scored, the rest confirm.
        formats: the ways to ship that are tried; if not given, the model's own.
        latency: whether milliseconds count beside word errors and bytes: takes the engine.
        budget: bytes that no file may exceed, such as "2MB".
        milliseconds: on a chunk, that no candidate may exceed.
    """

    candidates: int = Field(default=400, ge=2)
    generation: int = Field(default=40, ge=1)
    mutation: float = Field(default=0.2, gt=0, le=1)
    utterances: int = Field(default=400, ge=2)
    formats: tuple[FormatsConfig, ...] = Field(default=(), max_length=30)
    latency: bool = False
    budget: str | None = None
    milliseconds: float | None = Field(default=None, gt=0)

    @field_validator("budget")
    @classmethod
    def _check_budget(cls, budget: str | None) -> str | None:
        if budget is not None:
            read_bytes(budget, "search.budget =")
        return budget

    @model_validator(mode="after")
    def _check(self) -> "SearchConfig":
        names = [formats.name for formats in self.formats]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two formats are named {name!r}; names must differ")
        if self.milliseconds is not None and not self.latency:
            raise ValueError("milliseconds is a limit on what nobody measures: latency = true")
        return self


class Found(Config):
    """What is known of a candidate: word errors on the first part, and how long a chunk takes."""

    wer: float = Field(ge=0)
    milliseconds: float | None = Field(default=None, ge=0)


class Scored(Config):
    candidate: Candidate
    found: Found


class Scores(Config):
    """The file of a search: what was scored, and with which model and speech."""

    made_by: dict[str, str]
    scored: tuple[Scored, ...]


def check_installed(config: SearchConfig) -> None:
    """Whether what a search ends with is there; UserError names what is not."""
    with needs_extra("report", "search"):
        import matplotlib.figure  # noqa: F401
    if config.latency:
        with needs_engine("search.latency = true", "set it to false"):
            import pocketscribe_engine  # noqa: F401


class Search:
    """One search in one folder, which goes on from what was scored before."""

    def __init__(
        self,
        supernet: Saved,
        space: SpaceConfig,
        config: SearchConfig,
        units: Units,
        dev: Sequence[Heard],
        folder: Path,
        seed: int,
    ) -> None:
        """Every other utterance of `dev` confirms what the rest finds.

        Raises:
            UserError: a size does not fit the formats, no candidate fits the budget, there is but
                one utterance, or the folder holds scores of another model or other speech.
        """
        if len(dev) < 2:
            raise UserError("speech.dev: a search takes two utterances at least, one to confirm by")
        self.supernet, self.config, self.units, self.folder = supernet, config, units, folder
        self.model = supernet.model
        self.parts = dev[::2], dev[1::2]
        own = FormatsConfig(name="its own", rules=self.model.config.formats)
        self.rules: dict[str, Rules] = {f.name: f.rules for f in config.formats or (own,)}
        self.space = Space(self.model, space)
        for rules in self.rules.values():
            self.space.check_formats(rules)
        self.array_bytes = FileBytes(self.space, self.model.vocabulary)
        self._headers: dict[tuple[int, str], int] = {}
        self.budget = (
            None if config.budget is None else read_bytes(config.budget, "search.budget =")
        )
        self._check_budget()
        self.evolution = Evolution(
            self.space, list(self.rules), self._allowed, mutation=config.mutation, seed=seed
        )
        self.made_by = {"model": _digest(self.model), "speech": _speech_digest(dev)}
        self.known = self._read()

    def run(self, bar: Bar) -> tuple[Point, ...]:
        """Searches to the end; the frontier, smallest file first, and its plot in the folder."""
        goal, size = self.config.candidates, self.config.generation
        task = bar.add_task("search", total=goal)
        costs: dict[Candidate, Costs] = {}
        proposed = self.evolution.first(min(size, goal))
        while proposed:
            for candidate in proposed:
                found = self._scored(candidate)
                milliseconds = found.milliseconds
                if milliseconds is None or milliseconds <= (self.config.milliseconds or 1e9):
                    measured = () if milliseconds is None else (milliseconds,)
                    costs[candidate] = (found.wer, self.bytes(candidate), *measured)
                bar.advance(task)
            left = goal - len(self.evolution.proposed)
            proposed = self.evolution.next(costs, min(size, left)) if costs and left > 0 else []
        bar.remove_task(task)
        if not costs:
            raise UserError(
                f"search.milliseconds = {self.config.milliseconds}: the fastest of "
                f"{len(self.evolution.proposed)} candidates took "
                f"{min(found.milliseconds or 0 for found in self.known.values())}"
            )
        points = self._confirmed(near(costs), bar)
        on = set(frontier({p.candidate: (p.errors, p.bytes) for p in points}))
        pareto_plot(
            [(self.bytes(c), cost[0]) for c, cost in costs.items()],
            [
                (p.bytes, p.confirmed.wer, p.confirmed.ci_low, p.confirmed.ci_high)
                for p in points
                if p.candidate in on
            ],
            self.folder / "frontier.png",
        )
        return points

    def bytes(self, candidate: Candidate) -> int:
        """At most so many has its file: a narrower model's header has shorter numbers."""
        key = candidate.sizes.layers, candidate.formats
        if key not in self._headers:
            whole = Candidate(sizes=self.space.largest_of(key[0]), formats=key[1])
            size = packed_bytes(self._taken(whole, WIDEST))
            self._headers[key] = size - self._arrays(whole)
        return self._arrays(candidate) + self._headers[key]

    def _arrays(self, candidate: Candidate) -> int:
        return self.array_bytes(candidate.sizes, self.rules[candidate.formats])

    def _allowed(self, candidate: Candidate) -> bool:
        return self.budget is None or self.bytes(candidate) <= self.budget

    def _check_budget(self) -> None:
        smallest = [Candidate(sizes=self.space.smallest, formats=name) for name in self.rules]
        least = min(self.bytes(candidate) for candidate in smallest)
        if self.budget is not None and self.budget < least:
            raise UserError(
                f"search.budget = {self.config.budget}: the smallest sub-network takes {least:,} "
                "bytes; give more, or add smaller sizes or formats of fewer bits"
            )

    def _scored(self, candidate: Candidate) -> Found:
        """Its word errors on the first part, and how long it takes; from the file if known."""
        if candidate not in self.known:
            taken = self._taken(candidate)
            wer = dev_errors(taken.model, self.parts[0], self.units).wer
            milliseconds = chunk_milliseconds(taken) if self.config.latency else None
            self.known[candidate] = Found(wer=wer, milliseconds=milliseconds)
            self._write()
        return self.known[candidate]

    def _confirmed(self, found: Sequence[Candidate], bar: Bar) -> tuple[Point, ...]:
        """Scores what may be best on the other part of dev; what both say is best, stays."""
        task = bar.add_task("confirm", total=len(found))
        points: dict[Candidate, Point] = {}
        for candidate in found:
            again = dev_errors(self._taken(candidate).model, self.parts[1], self.units)
            confirmed = Confirmed(
                wer=round(again.wer, 4),
                ci_low=round(again.ci_low, 4),
                ci_high=round(again.ci_high, 4),
                words=again.words,
            )
            points[candidate] = Point(
                candidate=candidate,
                rules=self.rules[candidate.formats],
                bytes=packed_bytes(self._taken(candidate, confirmed)),
                confirmed=confirmed,
                **self.known[candidate].model_dump(),
            )
            bar.advance(task)
        bar.remove_task(task)
        again_costs: dict[Candidate, Costs] = {
            c: (p.errors, p.bytes, *(() if p.milliseconds is None else (p.milliseconds,)))
            for c, p in points.items()
        }
        return tuple(sorted((points[c] for c in best(again_costs)), key=lambda p: p.bytes))

    def _taken(self, candidate: Candidate, confirmed: Confirmed | None = None) -> Saved:
        config = self.space.sub_config(candidate.sizes)
        return take(self.supernet, config, self.rules[candidate.formats], confirmed)

    def _read(self) -> dict[Candidate, Found]:
        path = self.folder / "search.json"
        if not path.is_file():
            return {}
        scores = Scores.read(read_json(path), str(path))
        if scores.made_by != self.made_by:
            raise UserError(f"{path}: scores of another model or other speech; delete it")
        return {row.candidate: row.found for row in scores.scored}

    def _write(self) -> None:
        rows = tuple(Scored(candidate=c, found=found) for c, found in self.known.items())
        scores = Scores(made_by=self.made_by, scored=rows)
        write_json(self.folder / "search.json", scores.model_dump(mode="json"))


def _digest(model: Recogniser) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors(model).items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().numpy().tobytes())
    return found.hexdigest()


def _speech_digest(dev: Sequence[Heard]) -> str:
    found = hashlib.sha256()
    for heard in dev:
        found.update(f"{heard.text}\n{len(heard.features)}\n".encode())
    return found.hexdigest()
