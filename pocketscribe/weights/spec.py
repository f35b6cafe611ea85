"""How a weight is stored: one frozen spec, chosen by rules over module names."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from pydantic import Field

from pocketscribe.config import Config


class WeightSpec(Config):
    """What is stored for one weight, and how the weight is computed from it.

    Attributes:
        rank: store two factors, `[out, rank]` and `[rank, fan_in]`, and multiply by each in turn
            (papers.md S1, level iv); None stores the matrix itself.
    """

    rank: int | None = Field(default=None, gt=0)


class Rule(WeightSpec):
    """A spec for every module whose name matches the pattern (`*` crosses dots)."""

    match: str

    def spec(self) -> WeightSpec:
        return WeightSpec(**self.model_dump(exclude={"match"}))


def resolve(name: str, rules: Sequence[Rule]) -> WeightSpec:
    """The spec for the module `name`: the first rule that matches wins, else the plain spec."""
    return next((rule.spec() for rule in rules if fnmatchcase(name, rule.match)), WeightSpec())
