"""A checkpoint brings everything back, or says in one line that it cannot."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from pocketscribe.errors import UserError
from pocketscribe.models import Recogniser
from pocketscribe.models.saved import load_model
from pocketscribe.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from pocketscribe.training.optimisers import OptimiserConfig, build_optimiser

Tiny = Callable[..., Recogniser]
FILES = [
    "candidates.safetensors",
    "masks.safetensors",
    "model.safetensors",
    "objective.safetensors",
    "optimiser.safetensors",
    "state.json",
]


def stepped(model: Recogniser, kind: str, steps: int) -> Optimizer:
    """An optimiser that has taken a few steps down some made-up gradients."""
    optimiser = build_optimiser(OptimiserConfig(kind=kind), model.named_parameters())
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimiser.step()
    return optimiser


@pytest.fixture
def saved(tiny: Tiny, tmp_path: Path) -> Path:
    model = tiny()
    optimiser = stepped(model, "adamw", 1)
    save_checkpoint(tmp_path / "checkpoint", model, model, {}, optimiser, Progress(step=1), "units")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("kind", ["scaled_adam", "adamw"])
def test_round_trip(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    model = tiny()
    optimiser = stepped(model, kind, 6)
    average = {f"mean/{name}": p.detach() / 3 for name, p in model.named_parameters()}
    progress = Progress(step=6, audio_seconds=0.1 + 0.2, averaged={"mean": 2}, wall_seconds=9.5)
    objective = nn.ModuleDict({"model": model, "map": nn.Linear(2, 3)})
    save_checkpoint(
        tmp_path / "checkpoint", objective, model, average, optimiser, progress, "units"
    )
    assert load_model(tmp_path / "checkpoint" / "model.safetensors").units == "units"
    assert sorted(p.name for p in (tmp_path / "checkpoint").iterdir()) == FILES

    other = tiny()
    again = nn.ModuleDict({"model": other, "map": nn.Linear(2, 3)})
    for p in again.parameters():  # made with the same seed, so to the same bits
        p.data.zero_()
    fresh = build_optimiser(OptimiserConfig(kind=kind, lr=0.5), other.named_parameters())
    found, found_average = load_checkpoint(tmp_path / "checkpoint", again, other, fresh)
    assert torch.equal(again["map"].weight, objective["map"].weight), "it trains, and never ships"
    assert found == progress
    torch.testing.assert_close(found_average, average, rtol=0, atol=0)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(fresh.state_dict(), optimiser.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["missing", "empty", "cut short", "garbage"])
def test_damage_is_refused(tiny: Tiny, saved: Path, name: str, harm: str) -> None:
    path, data = saved / name, (saved / name).read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        bad = {"empty": b"", "cut short": data[: len(data) // 2], "garbage": b"\xff" * 5000}
        path.write_bytes(bad[harm])
    model = tiny()
    optimiser = build_optimiser(OptimiserConfig(kind="adamw"), model.named_parameters())
    with pytest.raises(UserError, match=r"damaged checkpoint .*; delete the folder") as refused:
        load_checkpoint(saved, model, model, optimiser)
    assert str(saved) in str(refused.value)


def test_state_of_another_kind_is_refused(tiny: Tiny, saved: Path) -> None:
    for text in ("{}", "[]", '{"progress": {"steps": 1}, "groups": []}'):
        (saved / "state.json").write_text(text)
        model = tiny()
        optimiser = build_optimiser(OptimiserConfig(kind="adamw"), model.named_parameters())
        with pytest.raises(UserError, match="damaged checkpoint"):
            load_checkpoint(saved, model, model, optimiser)


def test_checkpoint_of_another_model_is_refused(tiny: Tiny, saved: Path) -> None:
    model = tiny("ctc")
    optimiser = build_optimiser(OptimiserConfig(kind="adamw"), model.named_parameters())
    with pytest.raises(UserError, match="does not fit its config"):
        load_checkpoint(saved, model, model, optimiser)
