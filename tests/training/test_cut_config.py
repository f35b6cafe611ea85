"""Which choices of what a student keeps take speech, so that a recipe knows to ask for some."""

from typing import Any, Literal

import pytest
import torch

from large import UNITS, large
from pocketscribe.speech.batches import Batch
from pocketscribe.training.cutting import CutConfig, cut_from

SMALL: dict[str, Any] = {
    "encoder": {"width": 16, "layers": 2, "heads": 2, "head_width": 6, "ffn": 2},
    "joiner": 8,
}


def speech() -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    features, frames = torch.randn(2, 60, 80, generator=generator), torch.tensor([60, 48])
    targets = torch.randint(1, UNITS, (2, 5), generator=generator)
    return [Batch(features, frames, targets, torch.tensor([5, 3]), 1.08, 108)]


@pytest.mark.parametrize("layers", ["even", "first", "last", "dropped"])
@pytest.mark.parametrize("units", ["norm", "first", "gradient"])
def test_a_choice_listens_or_is_made_without_speech(
    layers: Literal["even", "first", "last", "dropped"],
    units: Literal["norm", "first", "gradient"],
) -> None:
    config = CutConfig(layers=layers, units=units)
    assert config.listens is (layers == "dropped" or units == "gradient")
    if not config.listens:
        deaf, hearing = large(SMALL, seed=5), large(SMALL, seed=5)
        cut_from(deaf, large(), config, None)
        cut_from(hearing, large(), config, speech())
        for (name, one), other in zip(
            deaf.state_dict().items(), hearing.state_dict().values(), strict=True
        ):
            assert torch.equal(one, other), name
