"""When N:M masks are taken, and what becomes of the weights that they leave out.

Modes and gradients after the public layer library of USM-Lite's authors (arXiv 2312.08553). The
schedule, and SR-STE's decay (Zhou et al. 2021, arXiv 2102.04010) apart from the optimiser's moments
(arXiv 2302.01172), are our reading.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pocketscribe.config import Config
from pocketscribe.models import Recogniser, precise_names, tensors
from pocketscribe.weights import Pipeline

WARM, RAISED, FROZEN = 0.1, 1 / 3, 2 / 3  # shares of a stage where the schedule turns


class MaskConfig(Config):
    """How masks are updated during a fine-tuning.

    Attributes:
        update: "schedule" trains densely for a tenth of the stage, then leaves out one weight of
            each group after the other until a third is done, and freezes the masks for the last
            third; "every_step" always follows the magnitudes; "one_shot" takes the masks once, at
            the start; "few_shots" takes them `shots` times, evenly over the first two thirds.
        gradient: "masked" weights get none; "straight_through" passes it to all; "sr_ste" does so
            too, and lets masked weights decay.
        decay: SR-STE's pull to zero, as a share of a masked weight per unit of learning rate.
    """

    update: Literal["schedule", "every_step", "one_shot", "few_shots"] = "schedule"
    shots: int = Field(default=5, ge=1)
    gradient: Literal["masked", "straight_through", "sr_ste"] = "masked"
    decay: float = Field(default=0.02, ge=0)


class Masks:
    """Sets the masks of a model's sparse weights as its training goes on."""

    def __init__(self, weights: Mapping[str, Pipeline], config: MaskConfig) -> None:
        self.sparse = {k: w for k, w in weights.items() if w.format.pattern is not None}
        self.config = config
        self._seen: dict[str, Tensor] = {}
        for weight in self.sparse.values():
            weight.prune_gradient = "masked" if config.gradient == "masked" else "straight_through"

    @torch.no_grad()
    def begin(self, done: float, before: float) -> None:
        """Before each step; shares of the stage that are behind it, and behind the step before."""
        update = self.config.update
        if update == "schedule":
            for weight in self.sparse.values():
                weight.pattern = scheduled(done, weight.format.pattern)
            if done >= FROZEN:
                self._fix(again=False)
        elif update == "one_shot":
            self._fix(again=False)
        elif update == "few_shots":
            self._fix(again=self._shot(done) != self._shot(before))

    @torch.no_grad()
    def updated(self, lr: float) -> None:
        """After each step of the optimiser."""
        if self.config.gradient == "sr_ste":
            for weight in self.sparse.values():
                if (kept := weight.mask()) is not None:
                    weight.stored.mul_(torch.where(kept, 1.0, 1 - lr * self.config.decay))

    @torch.no_grad()
    def flipped(self) -> float:
        """The share of mask entries that changed since the last call."""
        changed = total = 0
        for key, weight in self.sparse.items():
            kept = weight.mask()
            if kept is None:
                continue
            if key in self._seen:
                changed += int((kept != self._seen[key]).sum())
                total += kept.numel()
            self._seen[key] = kept
        return changed / total if total else 0.0

    def _shot(self, done: float) -> int:
        return min(int(done / FROZEN * self.config.shots), self.config.shots - 1)

    def _fix(self, *, again: bool) -> None:
        for weight in self.sparse.values():
            if weight.fixed_mask is None or again:
                weight.fixed_mask = None
                weight.fixed_mask = weight.mask()


def scheduled(done: float, pattern: tuple[int, int] | None) -> tuple[int, int] | None:
    """The N:M in force: dense, then one weight of a group fewer after the other, then the goal."""
    if pattern is None or done < WARM:
        return None
    kept, group = pattern
    raised = min((done - WARM) / (RAISED - WARM), 1.0)
    return group - max(1, round(raised * (group - kept))), group


@torch.no_grad()
def settle(model: Recogniser) -> None:
    """Ends a training under formats: the model becomes what its packed file will hold.

    What the masks leave out is zero for good, so that masks follow from the magnitudes again, and
    what ships as float16 is float16 from here on.
    """
    settle_masks(model.weights.stored.values())
    quantised = [w.stored for w in model.weights.stored.values() if w.format.bits is not None]
    precise = precise_names(model)
    for name, tensor in tensors(model).items():
        if name not in precise and not any(tensor is other for other in quantised):
            tensor.copy_(tensor.half())


@torch.no_grad()
def settle_masks(weights: Iterable[Pipeline]) -> None:
    """Makes zeros of what the masks leave out, and masks follow from the magnitudes."""
    for weight in weights:
        kept, weight.fixed_mask, weight.pattern = weight.fixed_mask, None, weight.format.pattern
        kept = weight.mask() if kept is None else kept
        if kept is not None:
            weight.stored.mul_(kept)
