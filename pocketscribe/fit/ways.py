"""The two ways to a budget: which recipe is filled in, and what each of its stages gets to hear.

The numbers are rules of thumb from what was measured while this project was made (docs/training.md,
docs/todm.md).
"""

from typing import NamedTuple


class Effort(NamedTuple):
    """Of a stage.

    Attributes:
        share: of the hours heard in all: what it hears.
        cost: of its steps, in those of a plain step of the largest model.
    """

    share: float
    cost: float


HEADS = Effort(0.2, 1.0)  # of a start that is trained already: it gets the heads that it lacks


class Way(NamedTuple):
    """A recipe to fill in, and the efforts of its stages."""

    recipe: str
    stages: dict[str, Effort]

    def of_trained(self, headed: bool = False) -> "Way":
        """The same, where the start is trained already, and `headed`: with all its heads."""
        return self._replace(stages=self.stages | {"start": Effort(0.0, 0.0) if headed else HEADS})

    @property
    def cost(self) -> float:
        """Hours of plain steps for each hour heard."""
        return sum(effort.share * effort.cost for effort in self.stages.values())


class Choice(NamedTuple):
    """A change to the recipe, and why."""

    key: str
    value: str
    reason: str

    @property
    def change(self) -> str:
        return f"{self.key}={self.value}"


SUPERNET = Way(
    "fit",
    {
        "start": Effort(0.3, 1.0),
        "tuned": Effort(0.7, 1.0),
        "supernet": Effort(0.6, 2.6),  # several passes
        "search": Effort(0.0, 0.0),
        "halfway": Effort(0.3, 1.3),  # a teacher, and a smaller student
        "student": Effort(0.5, 1.1),
        "low_bits": Effort(0.4, 1.5),  # the same through formats
    },
)
DIRECT = Way(
    "fit_direct",
    {
        "start": Effort(0.3, 1.0),
        "tuned": Effort(0.7, 1.0),
        "halfway": Effort(0.7, 1.2),
        "student": Effort(1.0, 0.8),
        "low_bits": Effort(0.5, 0.8),
    },
)
