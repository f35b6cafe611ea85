"""What a student may be taught, and a teacher that has something to say."""

from collections.abc import Callable
from typing import Any

import torch

from pocketscribe.models import Recogniser
from pocketscribe.training.distilled import Distilled
from pocketscribe.training.objectives import LossConfig, Plain
from pocketscribe.training.teacher import DistilConfig, Teacher

Tiny = Callable[..., Recogniser]
LOSS = LossConfig(warmup_steps=0)
FORMS: dict[str, dict[str, Any]] = {
    "student": {},
    "teacher": {"nodes": "teacher"},
    "union": {"nodes": "union"},
    "path": {"nodes": "path"},
    "all": {"nodes": "all"},
    "full": {"classes": "full"},
    "occupancy": {"occupancy": True},
    "ctc alone": {"lattice": 0.0},
    "encoder": {"lattice": 0.0, "ctc": 0.0, "encoder": 1.0},
}


def another(tiny: Tiny) -> Recogniser:
    """A model of the same shape with other weights, as if it had learnt something."""
    model = tiny()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model


def distilled(student: Recogniser, teacher: Recogniser, **config: Any) -> Distilled:
    torch.manual_seed(1)  # of the map between encoders
    return Distilled(Plain(student, LOSS), Teacher(teacher, DistilConfig(**config)))
