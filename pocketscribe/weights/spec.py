"""How a weight is stored: one frozen spec, chosen by rules over module names."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pocketscribe.config import Config
from pocketscribe.weights.rules import Rule

Across = Literal["all"] | Annotated[int, Field(ge=2)]


class WeightSpec(Config):
    """What is stored for one weight, and how the weight is computed from it.

    Attributes:
        rank: store two factors, U `[out, rank]` and V `[rank, fan_in]`, and multiply by each in
            turn (arXiv 2303.08343, the fourth level of sharing); None stores the matrix itself.
        share_factor: the factor that layers have in common.
        across: which layers have it in common: "all" (if not given), or groups of so many
            consecutive ones.
        scale: each layer multiplies its outputs by a vector of its own, which starts at one: d
            numbers that let layers differ where their matrices may not.
    """

    rank: int | None = Field(default=None, gt=0, le=4096)
    share_factor: Literal["u", "v"] | None = None
    across: Across | None = None
    scale: bool = False

    @model_validator(mode="after")
    def _check(self) -> "WeightSpec":
        if self.share_factor is not None and self.rank is None:
            raise ValueError(f"share_factor = {self.share_factor!r} needs a rank: no rank, no U, V")
        if self.across is not None and self.share_factor is None:
            raise ValueError("across needs share_factor: it says which layers share that factor")
        return self


class RankRule(Rule, WeightSpec):
    """A spec for every weight whose name matches."""
