"""Checkpoints: a folder with tensors in safetensors and the rest in JSON, replaced as a whole."""

from dataclasses import field
from pathlib import Path
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.files import read_json, replacing, write_json
from pocketscribe.models import Recogniser
from pocketscribe.models.saved import Saved, fill, save_model

CHECKPOINT = "checkpoint"  # in a stage's folder, while it trains
# Torch's optimisers raise any of these on a state that is not theirs.
FAULTS = (
    UserError,
    SafetensorError,
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(config=Config.model_config | {"frozen": False, "allow_inf_nan": True})
class Progress:
    """How far a training is, and what it has seen: all that resuming needs besides tensors."""

    step: int = 0
    audio_seconds: float = 0.0
    before_seconds: float = 0.0  # audio_seconds before the last step
    skipped: int = 0  # steps whose gradient was not finite
    growth: float = 0.0  # of augmentation
    label_nats: float = 0.0  # since augmentation last had a chance to grow
    labels: float = 0.0
    averaged: dict[str, int] = field(default_factory=dict)  # snapshots in each average of weights
    validations: int = 0
    best: float | None = None  # dev score
    stale: int = 0  # validations since then
    chosen: str = ""  # whose weights the training ended with
    wall_seconds: float = 0.0


class State(Config, extra="ignore"):
    """What state.json holds: the progress, and the settings of the optimiser's groups."""

    progress: Progress
    groups: list[dict[str, Any]]


def save_checkpoint(
    folder: Path,
    objective: nn.Module,
    model: Recogniser,
    candidates: dict[str, Tensor],
    optimiser: Optimizer,
    progress: Progress,
    units: str,
) -> None:
    """Writes all of a training's state; a kill at any moment leaves the old one or the new one.

    The weights lie in a saved recogniser with its text units, which can be listened to meanwhile.
    """
    state = optimiser.state_dict()
    moments = {
        f"{index}.{name}": tensor
        for index, tensors in state["state"].items()
        for name, tensor in tensors.items()
    }
    with replacing(folder, folder=True) as beside:
        save_model(beside / "model.safetensors", Saved(model, units, {"step": progress.step}))
        save_file(_contiguous(candidates), beside / "candidates.safetensors")
        save_file(_contiguous(_own(objective, model)), beside / "objective.safetensors")
        save_file(_contiguous(moments), beside / "optimiser.safetensors")
        masks = {k: w.fixed_mask for k, w in model.weights.stored.items()}
        fixed = {k: mask for k, mask in masks.items() if mask is not None}
        save_file(_contiguous(fixed), beside / "masks.safetensors")
        kept = {"progress": vars(progress), "groups": state["param_groups"]}
        write_json(beside / "state.json", kept)


def load_checkpoint(
    folder: Path, objective: nn.Module, model: Recogniser, optimiser: Optimizer
) -> tuple[Progress, dict[str, Tensor]]:
    """Restores objective, model and optimiser in place; returns progress and candidate weights.

    Raises:
        UserError: the checkpoint is damaged or belongs to another model.
    """
    try:
        path = folder / "state.json"
        state = State.read(read_json(path), str(path))
        fill(model, load_file(folder / "model.safetensors"), str(folder))
        candidates = load_file(folder / "candidates.safetensors")
        with torch.no_grad():
            kept = load_file(folder / "objective.safetensors")
            for name, parameter in _own(objective, model).items():
                parameter.copy_(kept[name])
        for key, mask in load_file(folder / "masks.safetensors").items():
            weight = model.weights.stored[key]
            weight.fixed_mask = mask.to(weight.stored.device)
        per_parameter: dict[int, dict[str, Any]] = {}
        for key, value in load_file(folder / "optimiser.safetensors").items():
            index, name = key.split(".", 1)
            per_parameter.setdefault(int(index), {})[name] = value
        optimiser.load_state_dict({"state": per_parameter, "param_groups": state.groups})
        return state.progress, candidates
    except FAULTS as error:
        raise UserError(
            f"{folder}: damaged checkpoint ({error}); delete the folder to start this stage anew"
        ) from None


def _own(objective: nn.Module, model: Recogniser) -> dict[str, Tensor]:
    """What an objective trains besides the model: a map that compares, and never ships."""
    ours = {id(p) for p in model.parameters()}
    trained = ((n, p) for n, p in objective.named_parameters() if p.requires_grad)
    return {name: p for name, p in trained if id(p) not in ours}


def _contiguous(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in found.items()}
