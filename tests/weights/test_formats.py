"""Masks, grids and packed bits, against definitions written out plainly."""

from itertools import product

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pocketscribe.weights import FormatRule, Sharing, Weights, compress
from pocketscribe.weights.format import Format
from pocketscribe.weights.packing import layout, pack, pattern_bits, unpack
from pocketscribe.weights.panels import from_panels, panels_bytes, to_panels
from pocketscribe.weights.quantise import Grid, fake_quantise, fake_quantise_rows, quantise
from pocketscribe.weights.sparsity import mask
from pocketscribe.weights.weight import Weight

GRIDS = [
    Grid(b, s, k, c)
    for b, s, k, c in product((8, 4, 2), (True, False), (None, 8, 32), (False, True))
]
PATTERNS = (None, "2:4", "1:4", "3:8", "8:16", "1:2")


def drawn(out: int = 6, fan_in: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(out, fan_in, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 8), (15, 16), (1, 2)])
@pytest.mark.parametrize("fan_in", [64, 61])
def test_exactly_n_of_m_and_the_largest(n: int, m: int, fan_in: int) -> None:
    weight = drawn(fan_in=fan_in)
    kept = mask(weight, n, m)
    for row, chosen in zip(weight.abs(), kept, strict=True):
        for start in range(0, fan_in, m):
            group, picks = row[start : start + m], chosen[start : start + m]
            if len(group) == m:
                assert picks.sum() == n
            assert picks.sum() == min(n, len(group))
            if not picks.all():
                assert group[picks].min() >= group[~picks].max()


def test_of_equal_weights_the_first_stay() -> None:
    assert mask(torch.ones(1, 8), 2, 4).tolist() == [[True, True, False, False] * 2]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_weight_goes_to_its_nearest_level(grid: Grid) -> None:
    weight = drawn(fan_in=61)
    found = quantise(weight, grid)
    bottom, top = grid.levels
    assert found.codes.min() >= bottom and found.codes.max() <= top
    value = found.weight()
    block = grid.block or 61
    for i, j in product(range(6), range(0, 61, 7)):
        scale = found.scale[i, j // block].float()
        low = 0.0 if found.low is None else found.low[i, j // block].float()
        levels = scale * torch.arange(bottom, top + 1) + low
        nearest = (levels - weight[i, j]).abs().min()
        assert (value[i, j] - weight[i, j]).abs() <= nearest + 1e-6


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_span_is_the_largest_or_the_best_of_17_shares_of_it(grid: Grid) -> None:
    """Zero lies within every span, also where all weights have one sign."""
    weight = drawn(4, 32)
    weight[0].abs_().add_(1)
    weight[1].abs_().add_(1).neg_()
    bottom, top = grid.levels
    blocks = weight.unflatten(1, (-1, grid.block or 32))
    high = blocks.abs().amax(-1) if grid.symmetric else blocks.amax(-1).clamp(min=0)
    low = -high if grid.symmetric else blocks.amin(-1).clamp(max=0)
    errors = []
    for clip in [0.05 * k for k in range(4, 21)] if grid.search else [1.0]:
        scale = (clip * (high - low) / (top - bottom)).half().float()[..., None]
        offset = 0 if grid.symmetric else (clip * low).half().float()[..., None]
        levels = ((blocks - offset) / scale).round().clamp(bottom, top) * scale + offset
        errors.append((levels - blocks).square().sum(-1))
    found = (quantise(weight, grid).weight() - weight).square().unflatten(1, (-1, blocks.shape[2]))
    torch.testing.assert_close(found.sum(-1), torch.stack(errors).amin(0), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("block", "good"), [(7, False), (8, True), (2**16, True), (65537, False)])
def test_blocks_are_neither_tiny_nor_endless(block: int, good: bool) -> None:
    if good:
        assert Format(bits=4, block=block).grid == Grid(4, True, block)
    else:
        with pytest.raises(ValidationError, match="block"):
            Format(bits=4, block=block)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_block_of_zeros_has_a_scale(grid: Grid) -> None:
    """Whoever divides by it gets zeros, not NaN."""
    found = quantise(torch.zeros(2, 32), grid)
    assert (found.scale > 0).all() and not found.weight().any()


def test_relative_errors_are_those_that_are_known() -> None:
    """Of Gaussian weights: what the literature says of int8, int4, int2 and N:M."""
    weight = drawn(512, 512)

    def error(*grid: object) -> float:
        return float(
            (fake_quantise(weight, Grid(*grid)) - weight).square().sum() / weight.square().sum()
        )

    assert error(4) == pytest.approx(0.018, abs=0.001)
    assert error(2) == pytest.approx(0.71, abs=0.01)
    assert error(2, False) == pytest.approx(0.35, abs=0.01)
    assert error(2, False, 128) == pytest.approx(0.25, abs=0.01)
    assert error(2, False, 64) == pytest.approx(0.20, abs=0.01)
    assert error(2, False, 32) == pytest.approx(0.155, abs=0.005)
    assert error(2, True, None, True) < 0.2, "a searched clip"
    pruned = weight * mask(weight, 2, 4)
    assert float((pruned - weight).square().sum() / weight.square().sum()) == pytest.approx(
        0.13, abs=0.01
    )


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_gradients_pass_and_the_value_is_exact(grid: Grid) -> None:
    weight = drawn().requires_grad_()
    found = fake_quantise(weight, grid)
    assert torch.equal(found, quantise(weight, grid).weight())
    (found * torch.arange(64.0)).sum().backward()
    assert torch.equal(weight.grad, torch.arange(64.0).expand(6, 64))


@pytest.mark.parametrize("sparsity", PATTERNS)
@pytest.mark.parametrize("grid", [None, *GRIDS], ids=str)
@pytest.mark.parametrize("fan_in", [64, 61, 3])
def test_packed_bits_give_back_what_training_multiplied_by(
    sparsity: str | None, grid: Grid | None, fan_in: int
) -> None:
    quantised = (
        {}
        if grid is None
        else {
            "bits": grid.bits,
            "symmetric": grid.symmetric,
            "block": grid.block,
            "clip": "search" if grid.search else "max",
        }
    )
    format = Format(**quantised, sparsity=sparsity)
    weight = Weight("", 6, fan_in, 1.0, format)
    with torch.no_grad():
        weight.stored.copy_(drawn(fan_in=fan_in).half())
    parts = pack(weight.stored, format)
    assert torch.equal(unpack(parts, (6, fan_in), format), weight().detach())
    assert {k: (v.dtype, v.shape) for k, v in parts.items()} == layout((6, fan_in), format)


def test_bits_a_weight() -> None:
    """Jointly numbered patterns take less than two bits a place."""

    def bits(bits: int, sparsity: str | None) -> float:
        parts = layout((1, 1024), Format(bits=bits, sparsity=sparsity))
        return sum(8 * np.prod(parts[p][1]) for p in ("values", "patterns") if p in parts) / 1024

    assert [bits(b, None) for b in (8, 4, 2)] == [8, 4, 2]
    assert [bits(b, "2:4") for b in (8, 4, 2)] == [4.75, 2.75, 1.75]
    assert [bits(b, "1:4") for b in (8, 4, 2)] == [2.5, 1.5, 1]
    assert (pattern_bits(2, 4), pattern_bits(1, 4), pattern_bits(8, 16)) == (3, 2, 14)


def test_layout_to_the_bit() -> None:
    """Two groups of 2:4 at 4 bits, by hand: {0, 3} is choice 2, {1, 2} is choice 3."""
    weight = torch.tensor([[7.0, 0, 0, -7, 0, 1, 2, 0]])
    parts = pack(weight, Format(bits=4, sparsity="2:4"))
    assert parts["patterns"].tolist() == [[2 | 3 << 3]]
    assert parts["values"].tolist() == [[14 | 0 << 4, 8 | 9 << 4]]
    assert parts["scale"].tolist() == [[1.0]]


def test_damaged_parts_are_refused() -> None:
    format = Format(bits=4, sparsity="2:4")
    parts = pack(drawn(), format)
    for name in parts:
        with pytest.raises(ValueError, match=name):
            unpack({k: v for k, v in parts.items() if k != name}, (6, 64), format)
        with pytest.raises(ValueError, match=name):
            unpack({**parts, name: parts[name][:, 1:]}, (6, 64), format)
    with pytest.raises(ValueError, match="no choice has"):
        unpack({**parts, "patterns": np.full_like(parts["patterns"], 255)}, (6, 64), format)


@pytest.mark.parametrize("sparsity", ["4:4", "0:4", "1:17", "x", "2-4"])
def test_impossible_patterns_are_refused(sparsity: str) -> None:
    with pytest.raises(ValueError, match="write N:M with 1 <= N < M <= 16"):
        Format(sparsity=sparsity)


def test_masked_gradients_and_gradients_that_pass() -> None:
    weight = Weight("", 2, 8, 1.0, Format(sparsity="2:4"))
    weight().sum().backward()
    kept = weight.mask()
    assert torch.equal(weight.stored.grad, kept.float())
    weight.stored.grad, weight.prune_gradient = None, "straight_through"
    y = weight()
    y.sum().backward()
    assert torch.equal(weight.stored.grad, torch.ones(2, 8)) and torch.equal(y != 0, kept)


@pytest.mark.parametrize("size", [1e-2, 1e-3, 1e-4])
def test_small_weights_are_quantised_as_well_as_large_ones(size: float) -> None:
    """Scales below float16's normal numbers: what stands for 1.0 with 8 bits stands for 1e-3."""
    weight = drawn(64, 256) * size

    def error(weight: torch.Tensor) -> float:
        return float((fake_quantise(weight, Grid(8)) - weight).norm() / weight.norm())

    assert error(weight) < (0.02 if size < 1e-3 else 1.2 * error(drawn(64, 256)))
    parts = pack(weight, Format(bits=8))
    assert torch.equal(unpack(parts, (64, 256), Format(bits=8)), fake_quantise(weight, Grid(8)))


def test_rows_of_zeros_are_zeros_even_where_denormals_are_flushed() -> None:
    x = torch.zeros(2, 8)
    x[1, 0] = 1.0
    torch.set_flush_denormal(True)
    try:
        assert torch.equal(fake_quantise_rows(x, 8), x)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(fake_quantise_rows(x, 8), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_activations_go_to_their_nearest_level(dtype: torch.dtype) -> None:
    """255 levels a row, the outermost one its largest magnitude; gradients as if nothing was."""
    x = drawn(500, 64).to(dtype).requires_grad_()
    found = fake_quantise_rows(x, 8)
    assert found.dtype == dtype
    wide = x.detach().double()
    scale = wide.abs().amax(1, keepdim=True) / 127
    levels = found.detach().double() / scale
    # bfloat16 is up to 0.4% off a level: of the largest one half a step.
    near = 1.0 if dtype == torch.bfloat16 else 0.501
    assert (levels - wide / scale).abs().max() <= near
    assert (levels.abs().amax(1) - 127).abs().max() < 1e-3, "none is at 128"
    found.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_rows_shorter_than_a_group_stay_whole() -> None:
    """1:4 on two taps would keep one of two, by no means a quarter."""
    rules = [FormatRule(match="*", bits=4, sparsity="1:4")]
    weights = Weights(formats=rules)
    short, long = weights.depthwise("short", 8, 2), weights.depthwise("long", 8, 4)
    assert short.weight.format == Format(bits=4) and long.weight.format.pattern == (1, 4)
    assert short.weight().count_nonzero() > 8 and long.weight().count_nonzero() <= 8
    # A map that is stored transposed has the rows that are stored.
    tied = Weights(sharing=Sharing(tie=(("a", "b^T"),)), formats=rules)
    assert tied.linear("e.0.b", 3, 8).weight.format.pattern == (1, 4)
    model = nn.ModuleDict({"conv": nn.Conv1d(8, 8, 3, groups=8), "out": nn.Linear(8, 3)})
    found = compress(model, rules)
    assert found["conv"].pattern is None and found["out"].pattern == (1, 4)
    assert "conv" not in compress(
        nn.ModuleDict({"conv": nn.Conv1d(8, 8, 3, groups=8)}),
        [FormatRule(match="*", sparsity="1:4")],
    )


@pytest.mark.parametrize("grid", [None, Grid(8), Grid(4), Grid(2, False, 8)], ids=str)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("out", "fan_in"), [(6, 64), (40, 61), (16, 3)])
def test_panels_hold_the_same_numbers(
    grid: Grid | None, pattern: str | None, out: int, fan_in: int
) -> None:
    bits, symmetric, block = (None, True, None) if grid is None else grid[:3]
    format = Format(bits=bits, symmetric=symmetric, block=block, sparsity=pattern)
    format = format.for_rows_of(fan_in)
    parts = pack(drawn(out, fan_in), format)
    data = to_panels(parts, (out, fan_in), format)
    assert data.dtype == np.uint8 and data.shape == (panels_bytes((out, fan_in), format),)
    again = from_panels(data, (out, fan_in), format)
    assert again.keys() == parts.keys()
    for name, part in parts.items():
        assert again[name].dtype == part.dtype and (again[name] == part).all(), name


def test_a_panel_to_the_bit() -> None:
    """Two channels, int4 2:4: scales, then of each group the two values of each channel."""
    weight = torch.tensor([[7.0, 0, -7, 0, 0, 1, 2, 0], [0, 0, 3, 7, -1, -7, 0, 0]])
    format = Format(bits=4, sparsity="2:4")
    data = to_panels(pack(weight, format), (2, 8), format)
    one = np.float16(1).tobytes()
    values = [7 + 7, -7 + 7, 3 + 7, 7 + 7, 1 + 7, 2 + 7, -1 + 7, -7 + 7]
    numbers = [1, 5, 3, 0]  # {0, 2} and {2, 3}, then {1, 2} and {0, 1}
    expected = bytes(a | b << 4 for a, b in zip(values[::2], values[1::2], strict=True))
    bits = sum(number << 3 * i for i, number in enumerate(numbers))
    assert data.tobytes() == one + one + expected + bits.to_bytes(2, "little")
