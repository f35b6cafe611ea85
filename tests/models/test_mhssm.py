"""State spaces: convolution = recurrence = their definition, frame by frame in complex numbers.

B batch, S encoder frames, D width, H heads, P channels of a head, N modes.
"""

import math

import pytest
import torch
from torch import Tensor

from pocketscribe.errors import UserError
from pocketscribe.models import (
    ChunkConfig,
    Chunking,
    MHSSMConfig,
    ModelConfig,
    Recogniser,
    deployed_parameters,
    start_from,
)
from pocketscribe.models.mhssm import StateSpace
from test_conformer import convolution, feed_forward, linear, norm, subsampled, swish

HEADS, CHANNELS, MODES = 3, 2, 4
CHUNKINGS = [Chunking(1, 0), Chunking(3, 0), Chunking(4, 8), Chunking(8, 8)]


def state_space(dtype: torch.dtype) -> StateSpace:
    """Every parameter drawn; dynamics that last for minutes beside short ones."""
    torch.manual_seed(0)
    made = StateSpace(HEADS, CHANNELS, MODES).to(dtype)
    with torch.no_grad():
        made.log_decay.add_(torch.randn_like(made.log_decay))
        made.skip.normal_()
    return made.requires_grad_(False)


def scanned(space: StateSpace, u: Tensor) -> Tensor:
    """The definition in complex128, one frame after the other; u is one utterance `[S, D]`."""
    dt = 0.01 * space.log_step.double().exp()
    a = torch.complex(
        -space.log_decay.double().exp(),
        (math.pi * torch.arange(MODES, dtype=torch.float64)).expand(HEADS, MODES),
    )
    power = (dt[:, None] * a).exp()[:, None]  # [H, 1, N]
    read = torch.view_as_complex(space.read.double()) * (power - 1) / a[:, None]
    state = torch.zeros(HEADS, CHANNELS, MODES, dtype=torch.complex128)
    found = []
    for frame in u.double():
        x = frame.view(HEADS, CHANNELS)
        state = power * state + x[..., None]
        found.append((2 * (read * state).sum(-1).real + space.skip * x).flatten())
    return torch.stack(found)


def streamed(space: StateSpace, u: Tensor, size: int) -> tuple[Tensor, Tensor]:
    state = u.new_zeros(u.shape[0], HEADS, 2, MODES, CHANNELS)
    found = []
    for chunk in u.split(size, dim=1):
        y, state = space.scan(chunk, state)
        found.append(y)
    return torch.cat(found, dim=1), state


def convolved(space: StateSpace, u: Tensor) -> Tensor:
    return space.convolve(u, torch.ones(u.shape[:2], dtype=torch.bool))


def test_convolution_and_recurrence_compute_the_definition() -> None:
    space = state_space(torch.float64)
    u = torch.randn(2, 300, HEADS * CHANNELS, dtype=torch.float64)
    expected = torch.stack([scanned(space, x) for x in u])
    assert expected.std() > 0.5
    torch.testing.assert_close(convolved(space, u), expected, rtol=0, atol=1e-9)
    for size in (1, 16, 37, 300):
        torch.testing.assert_close(streamed(space, u, size)[0], expected, rtol=0, atol=1e-9)


def test_they_still_do_in_float32_after_minutes() -> None:
    """Six minutes: 9,000 frames of 40 ms."""
    space = state_space(torch.float32)
    u = torch.randn(1, 9000, HEADS * CHANNELS)
    by_recurrence, state = streamed(space, u, 64)
    torch.testing.assert_close(by_recurrence, convolved(space, u), rtol=0, atol=1e-4)
    torch.testing.assert_close(by_recurrence[0].double(), scanned(space, u[0]), rtol=0, atol=1e-4)
    assert state.isfinite().all() and state.dtype == torch.float32


def test_heads_are_independent_and_may_be_cut_off() -> None:
    space = state_space(torch.float64)
    u = torch.randn(1, 50, HEADS * CHANNELS, dtype=torch.float64)
    cut = StateSpace(2, CHANNELS, MODES).double().requires_grad_(False)
    for name, parameter in cut.named_parameters():
        parameter.copy_(space.get_parameter(name)[:2])
    kept = slice(0, 2 * CHANNELS)
    torch.testing.assert_close(convolved(cut, u[..., kept]), convolved(space, u)[..., kept])


def test_time_steps_start_log_uniform_and_apart() -> None:
    steps = torch.stack([0.01 * StateSpace(8, 1, 1).log_step.exp() for _ in range(200)])
    assert steps.min() > 1e-3 and steps.max() < 1e-1
    logs = steps.log10().sort(dim=1).values
    assert (logs.mean(0) - (-3 + 2 * (torch.arange(8) + 0.5) / 8)).abs().max() < 0.05
    assert (steps[:, 0].log10().std() - 2 / math.sqrt(12)).abs() < 0.1, "any head, any step"


def test_autocast_does_not_reach_it() -> None:
    space = state_space(torch.float32)
    u = torch.randn(1, 60, HEADS * CHANNELS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(convolved(space, u), convolved(space, u.clone()))
        low = convolved(space, u.bfloat16())
        found = convolved(space, u)
    assert torch.equal(found, convolved(space, u))
    assert low.dtype == torch.bfloat16
    exact = convolved(space, u.bfloat16().float())
    assert torch.equal(low, exact.bfloat16())


def recogniser(head: str = "transducer", **changes: object) -> Recogniser:
    torch.manual_seed(0)
    plain = {
        "encoder": {"family": "mhssm", "width": 16, "layers": 2, "heads": 2, "kernel": 5, "ffn": 2},
        "chunks": {"sizes": [4, "full"], "left": 8},
        "head": head,
        "predictor": 8,
        "joiner": 12,
        "subsampling": 10,
    }
    model = Recogniser(ModelConfig.read({**plain, **changes}, "test"), 11).eval()
    with torch.no_grad():
        model.mean.normal_()
        model.inverse_std.uniform_(0.5, 2)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def speech(batch: int, frames: int) -> Tensor:
    return torch.randn(batch, frames, 80, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def offline(model: Recogniser, x: Tensor, chunking: Chunking) -> Tensor:
    return model.encode(x, torch.full((x.shape[0],), x.shape[1]), chunking)[0]


def block(p: dict[str, Tensor], model: Recogniser, name: str, x: Tensor) -> Tensor:
    """One utterance; every part is written down once more."""
    x = x + feed_forward(p, f"{name}.ffn1", x) / 2
    y = norm(p, f"{name}.ssm.norm", x)
    mixed = definition(
        model.get_submodule(f"{name}.ssm.state_space"), linear(p, f"{name}.ssm.value", y)
    )
    x = x + linear(p, f"{name}.ssm.out", mixed * swish(linear(p, f"{name}.ssm.gate", y)))
    x = x + convolution(p, f"{name}.convolution", x)
    x = x + feed_forward(p, f"{name}.ffn2", x) / 2
    return norm(p, f"{name}.norm", x)


def definition(space: torch.nn.Module, u: Tensor) -> Tensor:
    """y_t = Σ_j K_j u_(t-j) + D u_t with the kernel summed up mode by mode."""
    heads, channels, modes, _ = space.read.shape
    found = torch.zeros(u.shape, dtype=torch.float64)
    for h in range(heads):
        dt = 0.01 * math.exp(space.log_step[h])
        for p in range(channels):
            d = h * channels + p
            for n in range(modes):
                a = complex(-math.exp(space.log_decay[h, n]), math.pi * n)
                times = torch.arange(len(u), dtype=torch.float64)
                c = complex(*space.read[h, p, n].tolist())
                one = torch.exp(dt * torch.tensor(a, dtype=torch.complex128))
                kernel = (2 * (c * (one - 1) / a * torch.exp(dt * a * times))).real
                for t in range(len(u)):
                    found[t, d] += kernel[: t + 1].flip(0) @ u[: t + 1, d].double()
            found[:, d] += space.skip[h, p] * u[:, d]
    return found.to(u.dtype)


@torch.no_grad()
def test_the_encoder_computes_its_definition() -> None:
    model, x = recogniser(), speech(1, 48)
    p = dict(model.named_parameters())
    expected = subsampled(p, (x[0] - model.mean) * model.inverse_std)
    for layer in range(2):
        expected = block(p, model, f"encoder.blocks.{layer}", expected)
    assert expected.std() > 0.5
    torch.testing.assert_close(offline(model, x, Chunking(None))[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [4, 31, 90])
def test_streaming_is_offline_under_any_chunking(frames: int) -> None:
    model, x = recogniser(), speech(3, frames)
    expected = offline(model, x, Chunking(None))
    for chunking in CHUNKINGS:
        assert torch.equal(offline(model, x, chunking), expected)
        state, found = model.initial_state(3, chunking.left), []
        for chunk in x[:, : frames // 4 * 4].split(4 * chunking.size, dim=1):
            with torch.no_grad():
                y, new = model.step(chunk, state)
            assert list(new) == list(state) == ["past", "modes", "frames"]
            assert all(new[name].shape == state[name].shape for name in state)
            state = new
            found.append(y)
        torch.testing.assert_close(torch.cat(found, 1), expected, rtol=0, atol=1e-4)


def test_streaming_is_offline_after_minutes() -> None:
    model, x = recogniser(), speech(1, 4 * 3000)
    state, found = model.initial_state(1, 64), []
    assert all((t == 0).all() for t in state.values())
    with torch.no_grad():
        for chunk in x.split(128, dim=1):
            y, state = model.step(chunk, state)
            found.append(y)
    expected = offline(model, x, Chunking(32, 64))
    torch.testing.assert_close(torch.cat(found, 1), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_padding_is_never_heard_nor_is_what_comes_later() -> None:
    model, x = recogniser(), speech(2, 90)
    lengths = torch.tensor([90, 41])
    other = x.clone()
    other[1, 40:] = 1e5  # encoder frame 9 ends with feature 39
    a, _ = model.encode(x, lengths, Chunking(None))
    b, _ = model.encode(other, lengths, Chunking(None))
    assert torch.equal(a[1, :10], b[1, :10]) and torch.equal(a[0], b[0])
    torch.testing.assert_close(a[1:, :10], offline(model, x[1:, :41], Chunking(None)))
    later = x.clone()
    later[:, 60:] += 3.0
    c, _ = model.encode(later, torch.tensor([90, 90]), Chunking(None))
    torch.testing.assert_close(c[0, :15], a[0, :15], rtol=0, atol=1e-5)
    assert not torch.allclose(c[0, 15:], a[0, 15:])


@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_the_gradient_reaches_every_deployed_parameter(head: str) -> None:
    model = recogniser(head).train()
    encoded, _ = model.encode(speech(2, 64), torch.tensor([64, 40]), Chunking(4, 8))
    if head == "ctc":
        loss = model.ctc_logits(encoded).log_softmax(-1)[..., 3].sum()
    else:
        predicted = model.joiner.predictor(model.predictor(torch.tensor([[1, 5, 2], [3, 3, 3]])))
        logits = model.joiner(model.joiner.encoder(encoded).unsqueeze(2), predicted.unsqueeze(1))
        loss = logits.log_softmax(-1)[..., 3].sum()
    loss.backward()
    for name, parameter in deployed_parameters(model).items():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("encoder", "line"),
    [
        ({"family": "lstm"}, "does not match any of the expected tags: 'conformer', 'mhssm'"),
        (
            {"family": "mhssm", "width": 20},
            "encoder: encoder.width = 20 must be a multiple of heads = 8",
        ),
        ({"family": "mhssm", "modes": 0}, "encoder.modes = 0: input should be greater than 0"),
        ({"family": "mhssm", "mode": 1}, "unknown key 'encoder.mode'; did you mean 'modes'?"),
        (
            {"modes": 3},
            "unknown key 'encoder.modes' (allowed here: delay, dropout, family, ffn, head_width,",
        ),
        (
            {"family": "mhssm", "layers": 256, "width": 4096, "modes": 256},
            "a stream would remember 551,550,976 numbers",
        ),
    ],
)
def test_bad_configs_are_refused_in_one_line(encoder: dict, line: str) -> None:
    with pytest.raises(UserError) as caught:
        ModelConfig.read({"encoder": encoder}, "x.toml")
    assert line in str(caught.value)


def test_a_config_without_a_family_is_a_conformers() -> None:
    assert ModelConfig.read({"encoder": {"width": 80}}, "x").encoder.family == "conformer"
    config = ModelConfig(encoder=MHSSMConfig(width=16, heads=2), chunks=ChunkConfig())
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_families_do_not_start_from_each_other() -> None:
    model = recogniser()
    other = recogniser(encoder={"width": 16, "layers": 2, "heads": 2, "kernel": 5, "ffn": 2})
    for one, source in ((model, other), (other, model)):
        with pytest.raises(UserError, match=r"model.encoder.family is \w+ here and \w+ in"):
            start_from(one, source)
