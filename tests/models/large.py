"""A small recogniser that is large enough to be made smaller, whose every weight differs."""

from typing import Any

import torch

from pocketscribe.models import ModelConfig, Recogniser

UNITS = 12
LARGE: dict[str, Any] = {
    "encoder": {"width": 24, "layers": 4, "heads": 4, "kernel": 4, "dropout": 0.0},
    "chunks": {"sizes": [4, "full"], "left": 8},
    "predictor": 20,
    "joiner": 20,
    "subsampling": 16,
}


def large(*changes: dict[str, Any], seed: int = 0) -> Recogniser:
    """LARGE with changes on top, its weights drawn."""
    data = dict(LARGE)
    for change in changes:
        for key, value in change.items():
            data[key] = {**data.get(key, {}), **value} if isinstance(value, dict) else value
    torch.manual_seed(seed)
    found = Recogniser(ModelConfig.read(data, "test"), UNITS)
    with torch.no_grad():
        for p in found.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return found.eval()
