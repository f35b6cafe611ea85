"""Products of a file's tensors in every format, either way round, against PyTorch in float64."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from kernels import SEEDS, near, numbers, padded, pointer, rounded, same_everywhere, wide
from pocketscribe.errors import UserError
from pocketscribe.models.saved import load_model
from talkative import babbling


@contextmanager
def opened_model(operators: ctypes.CDLL, path: Path) -> Iterator[ctypes.c_void_p]:
    why = ctypes.create_string_buffer(256)
    model = operators.open_model(str(path).encode(), why, ctypes.c_size_t(256))
    assert model, why.value
    yield ctypes.c_void_p(model)
    operators.close_model(ctypes.c_void_p(model))


@st.composite
def formats(draw: st.DrawFn) -> dict[str, object]:
    """Any format that training knows; half of them those that are multiplied as integers."""
    integers = draw(st.booleans())
    bits = draw(st.sampled_from([8, 4, 2] if integers else [None, 8, 4, 2]))
    rule: dict[str, object] = {"match": "*", "bits": bits}
    if draw(st.booleans()):
        group = draw(st.integers(2, 16))
        rule["sparsity"] = f"{draw(st.integers(1, group - 1))}:{group}"
    if bits:
        rule["symmetric"] = draw(st.booleans())
        rule["block"] = draw(st.sampled_from([None, 8, 12, 20] if integers else [None, 9, 16, 23]))
        rule["activations"] = 8 if integers else draw(st.sampled_from([None, 8]))
    return rule


@settings(
    max_examples=80,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    rule=formats(),
    out=st.integers(1, 70),
    fan_in=st.integers(2, 70),
    rows=st.integers(1, 19),
    transposed=st.sampled_from([False, False, True]),
    scaled=st.booleans(),
    by=st.sampled_from([0.0, 0.5, 1.0]),
    seed=SEEDS,
)
def test_products(
    operators: ctypes.CDLL,
    rule: dict[str, object],
    out: int,
    fan_in: int,
    rows: int,
    transposed: bool,
    scaled: bool,
    by: float,
    seed: int,
    tmp_path: Path,
) -> None:
    """A tensor of a file, in every format and either way round, by floats or by rounded rows."""
    encoder = {"width": fan_in, "layers": 1, "heads": 1, "head_width": 2, "kernel": 2}
    try:
        path = babbling(tmp_path / "m.pocket", encoder={**encoder, "inner": [out]}, formats=[rule])
    except UserError:
        assume(False)
    key = "encoder.blocks.0.ffn1.up"
    matrix = load_model(path).model.weights.stored[key].matrix().detach().double()
    assert matrix.shape == (out, fan_in)
    matrix = matrix.T if transposed else matrix
    x, into = numbers(seed, rows, matrix.shape[1]), numbers(seed + 1, rows, matrix.shape[0])
    scale, bias = numbers(seed + 2, 2, matrix.shape[0])
    own, start = padded(x), padded(into)

    def run(k: int) -> np.ndarray:
        y = start.copy()
        given = (pointer(padded(scale)), pointer(padded(bias))) if scaled else (None, None)
        operators.product(
            k, model, key.encode(), int(transposed), pointer(own), own.shape[1], rows, *given,
            ctypes.c_float(by), pointer(y), y.shape[1],
        )  # fmt: skip
        return y

    with opened_model(operators, path) as model:
        found = same_everywhere(operators, run)
    taken = wide(x)
    if rule.get("activations"):
        data, step, _ = rounded(operators, 0, x)
        taken = wide(data[:, : x.shape[1]].astype(np.float32)) * wide(step)[:, None]
    factor, more = (wide(scale), wide(bias)) if scaled else (torch.ones(()), torch.zeros(()))
    expected = taken @ matrix.T * factor + more
    size = taken.abs() @ matrix.abs().T * factor.abs() + more.abs()
    if not rule.get("symmetric", True):
        size = size + taken.abs().sum(-1, keepdim=True) * matrix.abs().max() * factor.abs()
    if by:
        expected, size = wide(into) + by * expected, size + wide(into).abs()
    near(found, expected, size)
