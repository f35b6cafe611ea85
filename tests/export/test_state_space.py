"""An encoder of state spaces in every file and runtime: what PyTorch hears, bit for bit packed."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import kaldialign
import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open

import talkative
from pocketscribe.export.export import export
from pocketscribe.export.open import open_model
from pocketscribe.export.size import size_of_file, size_of_model
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.models import Recogniser, precise_names, stored_parameters, tensors
from pocketscribe.models.saved import load_model, save_model, save_packed
from pocketscribe.training.masks import settle

MadeOnce = Callable[..., Path]
ENCODER = {"family": "mhssm", "width": 16, "layers": 1, "heads": 2, "kernel": 4, "modes": 6}
FEW_BITS = [{"match": "*.depthwise", "bits": 8}, {"match": "*", "bits": 4, "sparsity": "2:4"}]
SHRUNK = {
    "encoder": {**ENCODER, "layers": 4},
    "sharing": {"blocks": 2, "tie": [["ssm.value", "ssm.gate"], ["ffn1", "ffn2"]]},
    "ranks": [{"match": "*.ssm.out", "rank": 4, "share_factor": "u", "scale": True}],
    "formats": FEW_BITS,
}


@pytest.fixture(scope="module")
def path(made_once: MadeOnce) -> Path:
    def make(path: Path) -> None:
        save_model(path, talkative.talkative(encoder=ENCODER))

    return made_once("mhssm.safetensors", make)


@pytest.fixture(scope="module")
def packed(made_once: MadeOnce) -> Path:
    """Shared, factored, in 4 bits with 2:4."""

    def make(path: Path) -> None:
        saved = talkative.talkative(**SHRUNK)
        settle(saved.model)
        save_packed(path, saved)

    return made_once("mhssm.pocket", make)


@pytest.mark.parametrize("to", ["onnx", "sherpa-onnx", "executorch"])
def test_every_runtime_hears_what_pytorch_hears(
    path: Path, made_once: MadeOnce, real_speech: np.ndarray, to: str
) -> None:
    folder = made_once(f"mhssm-{to}", lambda folder: export(path, to, folder))
    [expected] = TorchRuntime(path).transcribe([real_speech], streaming=True)
    assert open_model(folder).transcribe([real_speech]) == [expected]
    assert len(set(expected.tokens)) > 4 and expected.timestamps[-1] > 20
    assert TorchRuntime(path).transcribe([real_speech], streaming=False) == [expected]


def test_int8_leaves_the_recurrence_alone(path: Path, tmp_path: Path) -> None:
    export(path, "onnx", tmp_path / "int8", int8=True)
    kinds = Counter(n.op_type for n in onnx.load(tmp_path / "int8" / "encoder.onnx").graph.node)
    maps = 2 + 1 + 4 + 3 + 3  # subsampling, joiner's, feed-forward, state spaces', convolution's
    assert kinds["MatMulInteger"] == maps and kinds["MatMul"] >= 2 and not kinds["ConvInteger"]


def test_packed_is_fake_quantised_bit_for_bit(packed: Path) -> None:
    torch.manual_seed(0)
    saved = talkative.talkative(**SHRUNK)
    settle(saved.model)
    made, read = saved.model, load_model(packed).model
    for key, weight in made.weights.stored.items():
        assert torch.equal(read.weights.stored[key](), weight()), key
    formatted = {id(w.stored) for w in made.weights.stored.values()}
    for name, tensor in tensors(made).items():
        if id(tensor) not in formatted and not name.startswith("auxiliary."):
            assert torch.equal(tensors(read)[name], tensor), name
    assert {k for k in made.weights.stored if ".ssm." in k} == {
        f"encoder.blocks.{i}.ssm.{part}" for i in (0, 1) for part in ("value", "out.v")
    } | {"encoder.blocks.0.ssm.out.u"}
    assert all(w.format.bits is not None for w in made.weights.stored.values())
    kept = made.weights.stored["encoder.blocks.0.ssm.value"]().view(-1, 4)
    assert ((kept != 0).sum(1) <= 2).all() and kept.any()


def test_packed_is_heard_nearly_alike_in_few_bits(
    packed: Path, tmp_path: Path, real_speech: np.ndarray
) -> None:
    """Nearly: onnxruntime multiplies few bits by 8-bit activations, PyTorch by floats."""
    [expected] = TorchRuntime(packed).transcribe([real_speech[:160_000]], streaming=True)
    export(packed, "onnx", tmp_path / "onnx")
    [found] = open_model(tmp_path / "onnx").transcribe([real_speech[:160_000]])
    errors = kaldialign.edit_distance(expected.tokens, found.tokens)["total"]
    assert len(set(expected.tokens)) > 4 and errors <= 0.08 * len(expected.tokens)


def rates(model: Recogniser) -> dict[str, torch.Tensor]:
    return {name: tensors(model)[name] for name in precise_names(model)}


def test_rates_stay_float32_in_every_file(path: Path, packed: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.safetensors"
    export(path, "safetensors", half)
    exact = load_model(path).model
    assert {name.rpartition(".")[2] for name in rates(exact)} == {"log_step", "log_decay"}
    assert any((t != t.half()).any() for t in rates(exact).values())
    for name, tensor in rates(load_model(half).model).items():
        assert torch.equal(tensor, rates(exact)[name])
    assert not torch.equal(load_model(half).model.joiner.out.bias, exact.joiner.out.bias)
    for file in (half, packed):
        model = load_model(file).model
        with safe_open(file, "np") as found:
            dtypes = {name: found.get_slice(name).get_dtype() for name in found.keys()}  # noqa: SIM118
        wide = {name for name, dtype in dtypes.items() if dtype == "F32"}
        assert wide == precise_names(model) and len(wide) == 2 * model.config.encoder.layers


def test_every_byte_is_accounted_for(packed: Path) -> None:
    found, foreseen = size_of_file(packed), size_of_model(load_model(packed).model)
    header = found["parts"].pop("header")
    assert found["parts"] == foreseen["parts"]
    assert found["bytes"] == packed.stat().st_size == foreseen["bytes"] + header
    assert found["parameters_stored"] == stored_parameters(load_model(packed).model)
    assert found["state_bytes"] == 4 * (4 * (2 * 6 * 16 + 3 * 16) + 3 * 80)
