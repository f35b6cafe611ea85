"""In what form a stored tensor ships: bits, blocks and N:M sparsity, chosen by rules over names."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from pocketscribe.config import Config
from pocketscribe.weights.quantise import Grid
from pocketscribe.weights.rules import Rule
from pocketscribe.weights.sparsity import parse


class Format(Config):
    """How one stored tensor is pruned, then quantised (arXiv 2312.08553); nothing of it is float.

    Attributes:
        bits: of each value that is kept; None keeps floats.
        symmetric: a grid around zero; otherwise one between the extremes, which uses all levels.
        block: weights along fan-in that share a scale; None is a whole output channel.
        clip: "max" spans the largest weight; "search" finds the span with the least squared error.
        sparsity: "2:4" keeps the two largest of every four weights along fan-in; rows shorter than
            such a group are not pruned (`for_rows_of`).
        activations: bits of what the matrix is multiplied by, one scale a row, taken as it comes:
            what integer kernels do. Linear maps alone have it.
    """

    bits: Literal[8, 4, 2] | None = None
    symmetric: bool = True
    block: int | None = Field(default=None, ge=8, le=2**16)
    clip: Literal["max", "search"] = "max"
    sparsity: str | None = None
    activations: Literal[8] | None = None

    @field_validator("sparsity")
    @classmethod
    def _check_sparsity(cls, sparsity: str | None) -> str | None:
        if sparsity is not None:
            parse(sparsity)
        return sparsity

    @model_validator(mode="after")
    def _check(self) -> "Format":
        if self.bits is None and (not self.symmetric or self.block or self.clip != "max"):
            raise ValueError("symmetric, block and clip say how to quantise: give bits too")
        if self.activations is not None and self.bits is None:
            raise ValueError("activations are integers where weights are: give bits too")
        return self

    @property
    def plain(self) -> bool:
        """Whether the matrix ships as floats, all of them."""
        return self.bits is None and self.sparsity is None

    @property
    def grid(self) -> Grid | None:
        if self.bits is None:
            return None
        return Grid(self.bits, self.symmetric, self.block, self.clip == "search")

    @property
    def pattern(self) -> tuple[int, int] | None:
        """(N, M), or None where all weights stay."""
        return None if self.sparsity is None else parse(self.sparsity)

    def for_rows_of(self, fan_in: int) -> "Format":
        """The format of a matrix with such rows: where no whole group fits, nothing is pruned.

        The predictor mixes two labels by two taps a channel: 1:4 would take every other tap, which
        is half of such a row and not the quarter that was meant to stay.
        """
        if self.pattern is None or fan_in >= self.pattern[1]:
            return self
        return self.model_copy(update={"sparsity": None})


class FormatRule(Rule, Format):
    """A format for every weight whose name matches."""
