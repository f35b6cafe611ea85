import copy
import json
import math
import statistics

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pocketscribe.training import optimisers
from pocketscribe.training.optimisers import (
    OptimiserConfig,
    ScaledAdam,
    build_optimiser,
    cosine_factor,
    eden_factor,
    lr_factor,
)

SHAPES = [(7, 5), (5,), (3, 1, 4), (1,), ()]


@pytest.fixture
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a real model: updated in more than one piece, and norms that are forgotten."""
    monkeypatch.setattr(optimisers, "CHUNK_NUMEL", 16)
    monkeypatch.setattr(optimisers, "CLIP_WINDOW", 12)


def draw_parameters(seed: int = 0, scale: float = 0.3) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(scale * torch.randn(s, generator=generator)) for s in SHAPES]


def draw_gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    size = {13: 30.0, 17: 30.0}.get(step, 1.0 + 0.1 * step)  # these have to be clipped
    return [size * torch.randn(s, generator=generator) for s in SHAPES]


def take_steps(optimiser: ScaledAdam, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for p, g in zip(params, draw_gradients(step), strict=True):
            p.grad = g
        optimiser.step()


class SlowScaledAdam:
    """The formulas of the docstring and of arXiv 2310.11230, tensor by tensor, in float64."""

    def __init__(self, params: list[Tensor], lr: float) -> None:
        self.params = [p.detach().double().clone() for p in params]
        self.lr = lr
        self.t = 0
        self.norms: list[float] = []
        self.clips: list[float] = []
        self.rms = [p.square().mean().sqrt() for p in self.params]
        self.delta = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.w = [0.0 for _ in self.params]
        self.h: list[list[float]] = [[] for _ in self.params]

    def step(self, grads: list[Tensor]) -> None:
        grads = [g.double() for g in grads]
        weights = [r if p.numel() > 1 else 0.1 for p, r in zip(self.params, self.rms, strict=True)]
        squares = [(w * g).square().sum() for w, g in zip(weights, grads, strict=True)]
        norm = math.sqrt(sum(squares))
        limit = (
            2 * statistics.median(self.norms[-optimisers.CLIP_WINDOW :])
            if self.t >= 10
            else math.inf
        )
        self.norms.append(norm)
        self.clips.append(min(1.0, limit / norm))
        self.t += 1
        for i, p in enumerate(self.params):
            g = self.clips[-1] * grads[i]
            self.v[i] = 0.98 * self.v[i] + 0.02 * g**2
            self.delta[i] = 0.9 * self.delta[i]
            if p.numel() > 1:
                self.h[i].append((p * g).sum().item())
                if self.t % 4 == 0:
                    self.delta[i] += 0.1 * p * self.rescale(i)
            rms = self.rms[i].clamp(min=1e-5) if p.numel() > 1 else 0.1
            direction = math.sqrt(1 - 0.98**self.t) * g / (self.v[i].sqrt() + 1e-8)
            self.delta[i] += -0.1 * self.lr * rms * direction
            p += self.delta[i]

    def rescale(self, i: int) -> float:
        rms = self.params[i].square().mean().sqrt()
        self.rms[i] = rms
        last = self.h[i][-4:]
        beta = 0.98**4
        self.w[i] = beta * self.w[i] + (1 - beta) * sum(h**2 for h in last) / 4
        correction = math.sqrt(1 - beta ** (self.t // 4))
        change = -0.1 * self.lr * correction * sum(last) / (math.sqrt(self.w[i]) + 1e-8)
        if rms < 1e-5:
            change = 0.0
        change = max(-0.1, min(0.1, change))
        return min(change, 3.0 / rms.item() - 1)


@pytest.mark.parametrize(
    ("lr", "scale"),
    [(0.045, 0.3), (2.0, 0.3), (0.045, 4.0), (0.045, 1e-6)],
    ids=["usual", "rescale clamped", "above the largest RMS", "below the smallest RMS"],
)
@pytest.mark.usefixtures("several_chunks")
def test_follows_the_formulas(lr: float, scale: float) -> None:
    params = draw_parameters(scale=scale)
    slow = SlowScaledAdam(params, lr)
    fast = ScaledAdam(params, lr)
    for step in range(18):
        take_steps(fast, params, range(step, step + 1))
        slow.step(draw_gradients(step))
        for p, expected in zip(params, slow.params, strict=True):
            torch.testing.assert_close(p.detach().double(), expected, rtol=2e-5, atol=2e-6 * scale)
    assert slow.clips[13] < 0.5 and slow.clips[17] < 0.5, "the test must cover clipping"


def test_relative_step_does_not_depend_on_scale_of_parameter() -> None:
    small, large = (nn.Parameter(s * draw_parameters(scale=1.0)[0].detach()) for s in (0.01, 1.0))
    before = small.detach().clone(), large.detach().clone()
    # A loss that depends on the direction only has gradients inversely proportional to the scale.
    for p, s in ((small, 0.01), (large, 1.0)):
        optimiser = ScaledAdam([p])
        for step in range(8):
            p.grad = draw_gradients(step)[0] / s
            optimiser.step()
    relative = [(p.detach() - b) / b for p, b in zip((small, large), before, strict=True)]
    torch.testing.assert_close(relative[0], relative[1], rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("several_chunks")
def test_resumed_run_equals_uninterrupted_run_bit_for_bit() -> None:
    straight = draw_parameters()
    whole = ScaledAdam(straight)
    take_steps(whole, straight, range(20))

    params = draw_parameters()
    first = ScaledAdam(params)
    take_steps(first, params, range(11))  # between two scale updates, before the clipped step
    saved = first.state_dict()
    assert all(isinstance(x, Tensor) for s in saved["state"].values() for x in s.values())
    saved = {
        "state": copy.deepcopy(saved["state"]),
        "param_groups": json.loads(json.dumps(saved["param_groups"])),
    }
    resumed = [nn.Parameter(p.detach().clone()) for p in params]
    second = ScaledAdam(resumed, lr=1.0)
    second.load_state_dict(saved)
    take_steps(second, resumed, range(11, 20))
    assert_identical((resumed, second.state_dict()), (straight, whole.state_dict()))


def test_saved_state_keeps_its_own_norms() -> None:
    params = draw_parameters()
    optimiser = ScaledAdam(params)
    take_steps(optimiser, params, range(2))
    saved = optimiser.state_dict()
    take_steps(optimiser, params, range(2, 4))
    assert len(saved["param_groups"][0]["norms"]) == 2


def test_after_gradients_of_zero_nothing_is_clipped() -> None:
    """Their median is no measure: a gradient that comes at last is taken as it is."""
    params = draw_parameters()
    optimiser = ScaledAdam(params)
    for _ in range(12):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimiser.step()
    before = [p.detach().clone() for p in params]
    take_steps(optimiser, params, range(1))
    assert not any(torch.equal(p, b) for p, b in zip(params, before, strict=True))


def test_parameter_without_gradient_waits() -> None:
    params = draw_parameters()
    optimiser = ScaledAdam(params)
    late = params[0].detach().clone()
    for step in range(3):
        for p, g in zip(params[1:], draw_gradients(step)[1:], strict=True):
            p.grad = g
        optimiser.step()
    assert torch.equal(params[0], late)
    params[0].grad = draw_gradients(0)[0]
    optimiser.step()
    # Its first step is a first step: bias-corrected, so a tenth of lr x RMS in every element.
    expected = 0.1 * 0.045 * late.square().mean().sqrt()
    change = (params[0].detach() - late).abs()
    torch.testing.assert_close(change, expected.expand_as(late), rtol=1e-3, atol=0)


def test_groups_have_their_own_rates() -> None:
    params = draw_parameters()
    optimiser = ScaledAdam([{"params": params[:1], "lr": 0.0}, {"params": params[1:]}])
    before = [p.detach().clone() for p in params]
    take_steps(optimiser, params, range(5))
    assert [torch.equal(p, b) for p, b in zip(params, before, strict=True)] == [True] + 4 * [False]


def test_half_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        ScaledAdam([nn.Parameter(torch.ones(3, dtype=torch.bfloat16))])


@pytest.mark.parametrize("kind", ["scaled_adam", "adamw"])
def test_converges_on_a_small_regression(kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(128, 16)
    y = torch.tanh(x @ torch.randn(16, 4))
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4))
    config = OptimiserConfig(kind=kind, lr=None if kind == "scaled_adam" else 0.01)
    optimiser = build_optimiser(config, model.named_parameters())
    for _ in range(200):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.02 * y.var().item()


@pytest.mark.parametrize(
    ("step", "audio_seconds", "epochs", "expected"),
    [
        (0, 0.0, 0.0, 0.1),
        (250, 0.0, 0.0, 0.55),
        (500, 0.0, 0.0, 1.0),
        (9_000, 600.0 * 7500, 0.0, 2**-0.25),
        (9_000, 0.0, 3.5, 2**-0.25),
        (250, 600 * 7500 * math.sqrt(15), 3.5 * math.sqrt(80), 0.55 / 2 / 3),
    ],
)
def test_eden_at_known_points(
    step: int, audio_seconds: float, epochs: float, expected: float
) -> None:
    assert eden_factor(step, audio_seconds, epochs) == pytest.approx(expected, rel=1e-12)


def test_eden_counts_audio_not_batches() -> None:
    few_large = eden_factor(1_000, 6e6, 2.0)
    many_small = eden_factor(100_000, 6e6, 2.0)
    assert few_large == many_small < eden_factor(1_000, 6e6, 2.0, reference_seconds=1200.0)


@pytest.mark.parametrize(
    ("step", "progress", "expected"),
    [
        (0, 0.0, 0.1),
        (50, 0.0, 0.55),
        (100, 0.0, 1.0),
        (100, 0.5, 0.51),
        (50, 0.5, 0.55 * 0.51),
        (900, 1.0, 0.02),
        (900, 1.2, 0.02),
    ],
)
def test_cosine_at_known_points(step: int, progress: float, expected: float) -> None:
    assert cosine_factor(step, progress, warmup_steps=100) == pytest.approx(expected)
    assert cosine_factor(step, progress, warmup_steps=0) <= 1.0


def test_cosine_ends_at_its_floor() -> None:
    assert cosine_factor(9, 1.0, warmup_steps=0, floor=0.3) == pytest.approx(0.3)
    assert cosine_factor(0, 0.0, warmup_steps=0, floor=0.3) == 1.0


@pytest.mark.parametrize("kind", ["scaled_adam", "adamw"])
def test_lr_factor_follows_the_schedule_whatever_the_optimiser(kind: str) -> None:
    seen = {"step": 30, "audio_seconds": 7e5, "epochs": 3.0, "progress": 0.4}
    eden = OptimiserConfig(
        kind=kind,
        schedule="eden",
        warmup_steps=60,
        eden_batches=50,
        eden_epochs=2,
        reference_seconds=300,
    )
    expected = eden_factor(
        30, 7e5, 3.0, warmup_steps=60, batches=50.0, epoch_scale=2.0, reference_seconds=300.0
    )
    assert lr_factor(eden, **seen) == expected
    cosine = OptimiserConfig(kind=kind, warmup_steps=60)
    assert cosine.schedule == "cosine", "a run's length is known"
    assert lr_factor(cosine, **seen) == cosine_factor(30, 0.4, warmup_steps=60) != expected


def test_adamw_decays_matrices_only_and_skips_frozen_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    model[2].requires_grad_(False)
    config = OptimiserConfig(kind="adamw", weight_decay=0.1)
    decayed, others = build_optimiser(config, model.named_parameters()).param_groups
    assert [p is model[0].weight for p in decayed["params"]] == [True]
    assert [tuple(p.shape) for p in others["params"]] == [(3,), (3,), (3,)]
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert decayed["betas"] == (0.9, 0.98)
    assert decayed["lr"] == config.base_lr == 1e-3


def test_default_is_scaled_adam() -> None:
    optimiser = build_optimiser(OptimiserConfig(), nn.Linear(3, 2).named_parameters())
    assert isinstance(optimiser, ScaledAdam)
    assert optimiser.param_groups[0]["lr"] == 0.045


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "sgd"},
        {"lr": 0.0},
        {"lr": -1.0},
        {"momentum": 0.9},
        {"warmup_steps": -1},
        {"warmup_steps": 0.5},
        {"schedule": "linear"},
        {"lr": "0.1"},
        {"lr": float("inf")},
        {"eden_epochs": 0.0},
        {"eden_batches": 0.0},
        {"reference_seconds": 0.0},
        {"warmup_share": 0.1},
        {"weight_decay": -0.1},
    ],
    ids=str,
)
def test_bad_config_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OptimiserConfig(**options)


@pytest.mark.parametrize("config", [OptimiserConfig(lr=0.03), OptimiserConfig(kind="adamw")])
def test_config_survives_a_checkpoint_and_is_frozen(config: OptimiserConfig) -> None:
    assert OptimiserConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError):
        config.lr = 1.0


def assert_identical(actual: object, expected: object) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
