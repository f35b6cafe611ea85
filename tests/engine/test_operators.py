"""Each kernel against PyTorch in float64, on whatever shapes Hypothesis finds; the same bits on
every instruction set (kernels.py). Products of stored tensors have a file of their own.
"""

import ctypes
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kernels import LANES, SEEDS, near, numbers, padded, pointer, rounded, same_everywhere, wide
from pocketscribe.models.mhssm import StateSpace
from pocketscribe.models.rotary import rotate, rotation
from pocketscribe.speech.features import fbank
from pocketscribe.weights.quantise import fake_quantise_rows
from talkative import digits

widths = st.integers(1, 70)
counts = st.integers(1, 9)
loudness = st.sampled_from([1e-3, 1.0, 30.0])


@given(rows=counts, width=st.integers(2, 70), seed=SEEDS, scale=loudness, offset=loudness)
def test_norm(
    operators: ctypes.CDLL, rows: int, width: int, seed: int, scale: float, offset: float
) -> None:
    x = numbers(seed, rows, width, scale=scale) + np.float32(offset)
    weight, bias = numbers(seed + 1, 2, width)

    def run(k: int) -> np.ndarray:
        own, y = padded(x), np.zeros((rows, width + -width % LANES), np.float32)
        given = (pointer(padded(weight)), pointer(padded(bias)))
        operators.norm(k, pointer(own), own.shape[1], rows, width, *given, pointer(y))
        return y

    expected = F.layer_norm(wide(x), (width,), wide(weight), wide(bias))
    deviation = torch.sqrt(wide(x).var(-1, correction=0, keepdim=True) + 1e-5)
    cancelled = (offset + wide(x).abs().amax()) / deviation  # digits that the mean takes away
    near(same_everywhere(operators, run), expected, 1 + cancelled * wide(weight).abs())


@given(rows=counts, width=st.integers(1, 140), seed=SEEDS, scale=loudness, silent=st.booleans())
def test_rounding_of_activations(
    operators: ctypes.CDLL, rows: int, width: int, seed: int, scale: float, silent: bool
) -> None:
    """As training does it, but for numbers that lie between two integers."""
    x = numbers(seed, rows, width, scale=scale)
    if silent:
        x[0] = 0
    data, by, total = same_everywhere(operators, lambda k: rounded(operators, k, x))
    assert not data[:, width:].any() and np.array_equal(total, data.sum(1, dtype=np.int32))
    found = torch.from_numpy(data[:, :width]) * torch.from_numpy(by)[:, None]
    expected = fake_quantise_rows(torch.from_numpy(x), 8)
    between = ((wide(x) / wide(by)[:, None]).abs() % 1 - 0.5).abs() < 1e-4
    assert torch.allclose(found[~between], expected[~between], rtol=1e-6)
    assert ((wide(x) - found).abs() <= wide(by)[:, None] * 0.5001).all()

    def widened(k: int) -> np.ndarray:
        y = np.ones((rows, width + -width % LANES), np.float32)
        given = (pointer(data), data.shape[1], pointer(by), rows, width)
        operators.widen(k, *given, pointer(y), y.shape[1])
        return y

    assert np.array_equal(same_everywhere(operators, widened)[:, :width], found.numpy())


@given(rows=counts, width=widths, seed=SEEDS, scale=st.sampled_from([0.1, 1.0, 10.0, 1e4]))
def test_curves(operators: ctypes.CDLL, rows: int, width: int, seed: int, scale: float) -> None:
    a, b = numbers(seed, 2, rows, width, scale=scale)

    def run(k: int) -> tuple[np.ndarray, ...]:
        silu, value, gates = padded(a), padded(a), padded(b)
        gated, summed = np.empty_like(silu), np.empty_like(silu)
        stride = silu.shape[1]
        operators.silu(k, pointer(silu), stride, rows, width)
        given = (pointer(value), pointer(gates), stride, rows, width)
        operators.gate(k, *given, pointer(gated))
        operators.tanh_sum(k, pointer(value), pointer(gates), rows * stride, pointer(summed))
        return silu, gated, summed

    silu, gated, summed = same_everywhere(operators, run)
    near(silu, F.silu(wide(a)), 0)
    near(gated, wide(a) * torch.sigmoid(wide(b)), 0)
    near(summed, torch.tanh(wide(a + b)), 0)


@given(rows=counts, width=widths, taps=st.integers(1, 20), seed=SEEDS)
def test_depthwise(operators: ctypes.CDLL, rows: int, width: int, taps: int, seed: int) -> None:
    x, kernel = numbers(seed, rows + taps - 1, width), numbers(seed + 1, taps, width)
    bias = numbers(seed + 2, width)

    def run(k: int) -> np.ndarray:
        own = padded(x)
        y = np.ones((rows, own.shape[1]), np.float32)
        given = (pointer(own), own.shape[1], rows, width, pointer(padded(kernel)), taps)
        operators.depthwise(k, *given, pointer(padded(bias)), pointer(y))
        return y

    found = same_everywhere(operators, run)
    weight = wide(kernel).T.unsqueeze(1)
    expected = F.conv1d(wide(x).T.unsqueeze(0), weight, wide(bias), groups=width)[0].T
    near(found, expected, taps * 4)


@given(width=st.integers(1, 200), seed=SEEDS, scale=loudness, equal=st.booleans())
def test_the_largest(
    operators: ctypes.CDLL, width: int, seed: int, scale: float, equal: bool
) -> None:
    row = numbers(seed, width, scale=scale)
    if equal:
        row[[seed % width, width - 1]] = row.max()

    def run(k: int) -> tuple[float, float]:
        said = ctypes.c_float()
        best = operators.largest(k, pointer(padded(row)), width, ctypes.byref(said))
        return best, said.value

    best, said = same_everywhere(operators, run)
    assert best == int(row.argmax())  # the first of equals
    assert said == pytest.approx(wide(row).log_softmax(0)[best].item(), abs=1e-5, rel=1e-5)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    size=st.integers(1, 20),
    left=st.integers(0, 8),
    chunk=st.integers(0, 30),
    heads=st.integers(1, 4),
    half=st.integers(1, 40),
    seed=SEEDS,
    float16=st.booleans(),
)
def test_attention(
    operators: ctypes.CDLL,
    size: int,
    left: int,
    chunk: int,
    heads: int,
    half: int,
    seed: int,
    float16: bool,
) -> None:
    """Over a ring of slots, against attention over all frames of the window at their true times."""
    slots, head_width, end = (left + 1) * size, 2 * half, (chunk + 1) * size
    valid, width = min(end, slots), heads * 2 * half
    times = np.arange(end - valid, end)
    query = numbers(seed, size, heads, head_width, scale=0.5)
    key, value = numbers(seed + 1, 2, valid, heads, head_width)
    turn = rotation(2 * slots, head_width, torch.ones(()))
    place = times % slots
    turned = rotate(torch.from_numpy(key).transpose(0, 1)[None], turn._replace(
        cos=turn.cos[place], sin=turn.sin[place]
    ))[0]  # fmt: skip
    if float16:
        turned, value = turned.half().float(), value.astype(np.float16).astype(np.float32)
    stride, key_stride = width + -width % LANES, slots + -slots % LANES
    keys = np.zeros((heads, head_width, key_stride), np.float32)
    keys[:, :, place] = turned.mT.numpy()
    values = np.zeros((slots * stride + LANES), np.float32)
    values[: slots * stride].reshape(slots, stride)[place, :width] = value.reshape(valid, width)

    def run(k: int) -> np.ndarray:
        own, y = padded(query.reshape(size, width)), np.zeros((size, stride), np.float32)
        shape = (size, heads, head_width, slots, valid, int(place[-size]))
        tables = (pointer(turn.cos.numpy()), pointer(turn.sin.numpy()))
        given = (pointer(own), stride, int(float16), pointer(keys), key_stride, pointer(values))
        operators.attend(k, *shape, *tables, *given, pointer(y))
        return y

    far = rotation(end, head_width, torch.ones((), dtype=torch.float64))
    at = lambda t: far._replace(cos=far.cos[t].double(), sin=far.sin[t].double())  # noqa: E731
    asked = rotate(wide(query).transpose(0, 1)[None], at(times[-size:]))[0]
    # What was narrowed was turned first: back to where it lies, then on to its true time.
    back = at(place) if end <= slots else far._replace(cos=turn.cos[place], sin=turn.sin[place])
    whole = rotate(turned.double()[None], back._replace(sin=-back.sin.double()))
    held = rotate(whole, at(times))[0]
    weight = (asked @ held.mT).softmax(-1)
    expected = (weight @ wide(value).transpose(0, 1)).transpose(0, 1).reshape(size, width)
    found = same_everywhere(operators, run)
    error = (torch.from_numpy(found[:, :width]).double() - expected).abs().max()
    assert error < 1e-4  # angles of float32


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=counts,
    heads=st.integers(1, 4),
    channels=st.integers(1, 20),
    modes=st.integers(1, 20),
    seed=SEEDS,
)
def test_scan(
    operators: ctypes.CDLL, rows: int, heads: int, channels: int, modes: int, seed: int
) -> None:
    """A recurrence in complex numbers, from a state that is there already."""
    torch.manual_seed(seed % 2**31)
    space, width = StateSpace(heads, channels, modes).double(), heads * channels
    with torch.no_grad():
        power = torch.view_as_complex(space._powers(1)[..., 1].transpose(1, 2).contiguous())
        read = space._readout(space._powers(1)[..., 1]).transpose(1, 2)  # [H, N, 2, P]
        read = torch.complex(read[..., 0, :], -read[..., 1, :])  # [H, N, P]
        u = wide(numbers(seed, rows, width))
        past = wide(numbers(seed + 1, 1, heads, 2, modes, channels))
        expected, after = space.scan(u.unsqueeze(0), past)
    by_channel = power.unsqueeze(-1).expand(heads, modes, channels)
    tables = [
        padded(part.transpose(0, 1).reshape(modes, width))
        for part in (by_channel.real, by_channel.imag, read.real, read.imag)
    ]

    def run(k: int) -> tuple[np.ndarray, ...]:
        own, skip = padded(u), padded(space.skip.detach().reshape(width))
        state = padded(past[0].permute(2, 1, 0, 3).reshape(modes, 2, width))
        y = np.ones_like(own)
        given = (*map(pointer, tables), pointer(skip), pointer(own), own.shape[1], pointer(y))
        operators.scan(k, rows, width, modes, *given, pointer(state))
        return y, state

    y, state = same_everywhere(operators, run)
    near(y, expected[0], 30 + 3 * modes)
    near(state, after[0].permute(2, 1, 0, 3).reshape(modes, 2, width), 30)


@pytest.mark.parametrize("level", [0.0, 1e-4, 1.0])
@given(seed=SEEDS, frames=st.integers(1, 16))
def test_features(operators: ctypes.CDLL, level: float, seed: int, frames: int) -> None:
    """Kaldi's, by lhotse; noise of any loudness, and speech."""
    samples = numbers(seed, 16 * 160 + 400, scale=0.3 * level).clip(-1, 1)
    if seed % 2:
        samples = digits()[seed % 6][4000 : 4000 + len(samples)] * np.float32(level)

    def run(k: int) -> np.ndarray:
        y = np.zeros((16, 80), np.float32)
        from_here = np.ascontiguousarray(samples[40:])  # the second frame's first sample
        operators.features(k, 80, 20, 7600, pointer(from_here), frames, pointer(y), 80)
        return y

    found = same_everywhere(operators, run)
    expected = fbank(samples)[1 : frames + 1]
    assert np.abs(found[:frames] - expected).max() < 2e-3
    assert np.abs(found[:frames] - expected).mean() < 1e-4
    assert not found[frames:].any()


def test_float16(operators: ctypes.CDLL) -> None:
    """Every one of them widened, and floats of all sizes narrowed to the nearest."""
    halves = np.arange(2**16, dtype=np.uint16)
    finite = halves[np.isfinite(halves.view(np.float16))]
    wanted = finite.view(np.float16).astype(np.float32)
    found = np.array([operators.widened_half(ctypes.c_uint16(int(h))) for h in finite])
    assert np.array_equal(found.astype(np.float32), wanted)
    rng = np.random.default_rng(0)
    floats = rng.standard_normal(20_000) * 2.0 ** rng.integers(-30, 18, 20_000)
    midway = (wanted[:-1].astype(np.float64) + wanted[1:]) / 2  # halves go to the even one
    for x in np.concatenate([floats, midway[::7]]).astype(np.float32):
        with np.errstate(over="ignore"):
            expected = np.float16(x)
        if np.isinf(expected):
            expected = np.float16(math.copysign(65504, x))
        half = operators.narrowed_float(ctypes.c_float(float(x)))
        assert half == expected.view(np.uint16), x


@given(x=st.floats(-700, 700), angle=st.floats(-9e5, 9e5))
def test_numbers_of_tables(operators: ctypes.CDLL, x: float, angle: float) -> None:
    number = lambda which, x: operators.number(which, ctypes.c_double(x))  # noqa: E731
    assert number(0, x) == pytest.approx(math.exp(x), rel=4e-15)
    if x > 0:
        assert number(1, x) == pytest.approx(math.log(x), rel=4e-15, abs=4e-16)
    assert number(2, angle) == pytest.approx(math.cos(angle), abs=1e-10)
    assert number(3, angle) == pytest.approx(math.sin(angle), abs=1e-10)
