"""A small recogniser that is large enough to be made smaller, whose every weight differs."""

from typing import Any

import torch

from pocketscribe.models import ModelConfig, Recogniser
from pocketscribe.models.subnets import Space, SpaceConfig

UNITS = 12
LARGE: dict[str, Any] = {
    "encoder": {"width": 24, "layers": 4, "heads": 4, "kernel": 4, "dropout": 0.0},
    "chunks": {"sizes": [4, "full"], "left": 8},
    "predictor": 20,
    "joiner": 20,
    "subsampling": 16,
}
SMALL: dict[str, Any] = {  # what LARGE can be cut to
    "encoder": {"width": 16, "layers": 2, "heads": 2, "head_width": 6, "ffn": 2},
    "predictor": 12,
    "joiner": 8,
    "subsampling": 8,
}

SPACE = SpaceConfig(
    layers=(2, 4), width=(16, 20), heads=(2,), inner=(32, 64), predictor=(8,), joiner=(12,)
)
FACTORED = SPACE.model_copy(update={"rank": (6,)})
FORMATS = [{"match": "*", "bits": 4, "sparsity": "2:4"}]
MODELS: dict[str, dict[str, Any]] = {
    "conformer": {},
    "mhssm": {"encoder": {"family": "mhssm", "modes": 4}},
    "shared": {"sharing": {"blocks": 2, "tie": [["ffn1", "ffn2"]]}},
    "factored": {"ranks": [{"match": "encoder.*.ffn?.*", "rank": 10, "share_factor": "u"}]},
    "formatted": {"formats": FORMATS},
}


def space_of(name: str, whole: Recogniser) -> Space:
    return Space(whole, FACTORED if name == "factored" else SPACE)


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
