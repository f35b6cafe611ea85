"""Training under formats: every step multiplies by what will ship (arXiv 2312.08553)."""

from collections.abc import Sequence

from pocketscribe.speech.batches import Batch
from pocketscribe.training.masks import MaskConfig, Masks
from pocketscribe.training.objectives import Objective, Outputs, StepContext, Wrapper
from pocketscribe.weights import at_least, formatted_once


class Formatted(Wrapper):
    """An objective whose model's weights go through their formats, masks on a schedule.

    A formatted weight is quantised wherever it is used; this does it once a step.
    """

    def __init__(
        self, inner: Objective, masks: MaskConfig, sampled_bits: Sequence[int] = ()
    ) -> None:
        """`sampled_bits` are widths that take turns with the formats' own."""
        super().__init__(inner)
        self.widths = (0, *sampled_bits)
        self.masks = Masks(inner.model.weights.stored, masks)

    def outputs(self, batch: Batch, context: StepContext) -> Outputs:
        weights = self.model.weights.stored.values()
        width = self.widths[context.step % len(self.widths)]
        with at_least(width, weights), formatted_once(weights):
            return self.inner.outputs(batch, context)

    def begin(self, done: float, before: float) -> None:
        super().begin(done, before)
        self.masks.begin(done, before)

    def updated(self, lr: float) -> None:
        super().updated(lr)
        self.masks.updated(lr)

    def measures(self) -> dict[str, float]:
        found = {"flipped": self.masks.flipped()} if self.masks.sparse else {}
        return {**super().measures(), **found}
