"""Models whose weights are shared, factored and tied: the same text in every runtime, and no tensor
in a file twice.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import talkative
from pocketscribe.export.export import export
from pocketscribe.export.sherpa_runtime import SherpaRuntime
from pocketscribe.export.size import size_of_file
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.models import deployed_parameters, stored_parameters, virtual_parameters
from pocketscribe.models.saved import load_model, save_model

CHANGES = {
    "encoder": {"width": 16, "layers": 4, "heads": 2, "kernel": 4},
    "sharing": {
        "blocks": 2,
        "share": [{"modules": ["convolution.gate"]}],
        "tie": [["ffn1.up", "ffn1.down^T"], ["attention.key", "attention.value"]],
    },
    "ranks": [{"match": "*.ffn2.*", "rank": 4, "share_factor": "u", "scale": True}],
}


@pytest.fixture(scope="module")
def path(made_once: Callable[..., Path]) -> Path:
    return made_once(
        "shared.safetensors", lambda path: save_model(path, talkative.talkative(**CHANGES))
    )


@pytest.fixture(scope="module")
def folder(made_once: Callable[..., Path], path: Path) -> Path:
    return made_once("shared", lambda folder: export(path, "sherpa-onnx", folder))


@pytest.mark.parametrize("length", ["seconds", "over 20 s"])
def test_sherpa_hears_what_pytorch_hears(
    path: Path, folder: Path, speech: dict[str, np.ndarray], length: str
) -> None:
    [expected] = TorchRuntime(path).transcribe([speech[length]], streaming=True)
    assert SherpaRuntime(folder).transcribe([speech[length]]) == [expected]
    assert len(set(expected.tokens)) > 4


def test_every_file_holds_each_tensor_once(path: Path, folder: Path) -> None:
    model = load_model(path).model
    stored = stored_parameters(model)
    assert stored < virtual_parameters(model) / 2
    protos = [onnx.load(file) for file in folder.glob("*.onnx")]
    arrays = [onnx.numpy_helper.to_array(t) for p in protos for t in p.graph.initializer]
    # Matrices alone: vectors of an untrained model are equal by chance. Beyond the weights there
    # are only the rotation's table and a few constants.
    numbers = sum(a.size for a in arrays if a.dtype == np.float32 and a.ndim > 1)
    matrices = sum(p.numel() for p in deployed_parameters(model).values() if p.ndim > 1)
    assert matrices <= numbers <= matrices + 500
    for proto in protos:
        onnx.checker.check_model(proto)


def test_sizes_tell_stored_from_virtual(path: Path, folder: Path) -> None:
    model = load_model(path).model
    for found in (size_of_file(path), size_of_file(folder)):
        assert found["parameters_stored"] == stored_parameters(model)
        assert found["parameters_virtual"] == virtual_parameters(model)
    table = {row["tensor"]: row["serves"] for row in size_of_file(path)["tensors"]}
    assert table["encoder.blocks.1.ffn1.up"] == [
        f"encoder.blocks.{layer}.ffn1.{part}" for layer in (1, 3) for part in ("up", "down")
    ]
    assert len(table["encoder.blocks.0.convolution.gate"]) == 4
    assert table["encoder.blocks.0.ffn2.up.u"] == [f"encoder.blocks.{i}.ffn2.up" for i in range(4)]
    found = size_of_file(path)
    keys, kernels = 8 * 2 * 16, 3 * 16  # 8 frames of keys and values; kernel - 1 frames
    assert found["state_bytes"] == 4 * (4 * (keys + kernels) + 3 * 80 + 1)
