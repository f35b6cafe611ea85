"""Trainings that are killed, and whether two of them came out the same."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pocketscribe.models import Recogniser
from pocketscribe.speech.batches import Batch, TrainingBatches


def killed_at(batches: TrainingBatches, step: int) -> TrainingBatches:
    def stream(original: Iterator[Batch], skipped: int) -> Iterator[Batch]:
        for index, batch in enumerate(original, skipped):
            if index == step:
                raise KeyboardInterrupt
            yield batch

    class Killed(TrainingBatches):
        def __iter__(self) -> Iterator[Batch]:
            return stream(super().__iter__(), self.skip)

    return Killed(
        batches.parts,
        batches.units,
        batches.augmentation,
        batch_seconds=batches.batch_seconds,
        seed=batches.seed,
        views=batches.views,
    )


def weights(model: Recogniser) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def identical(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
