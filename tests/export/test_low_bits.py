"""Few-bit models in real runtimes: the file's integers, in their bits, heard as in PyTorch."""

from collections.abc import Callable
from pathlib import Path

import kaldialign
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import talkative
from pocketscribe.errors import UserError
from pocketscribe.export.export import export
from pocketscribe.export.onnx_runtime import OnnxRuntime
from pocketscribe.export.sherpa_runtime import SherpaRuntime
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.models.saved import load_model, save_packed
from pocketscribe.training.masks import settle

WIDE = {"encoder": {"width": 64, "layers": 2, "heads": 2, "kernel": 4}}
FORMATS = {
    "int4 2:4": [{"match": "*.depthwise", "bits": 8}, {"match": "*", "bits": 4, "sparsity": "2:4"}],
    "int8": [{"match": "*", "bits": 8}],
    "int4 blocks": [{"match": "*", "bits": 4, "block": 32, "symmetric": False}],
    "int2 blocks": [{"match": "*", "bits": 2, "block": 32, "clip": "search"}],
}
MadeOnce = Callable[..., Path]


@pytest.fixture(scope="module", params=FORMATS)
def path(request: pytest.FixtureRequest, made_once: MadeOnce) -> Path:
    def make(path: Path) -> None:
        saved = talkative.talkative(**WIDE, formats=FORMATS[request.param])
        settle(saved.model)
        save_packed(path, saved)

    return made_once(f"{request.param}.pocket".replace(" ", "-").replace(":", "of"), make)


@pytest.fixture(scope="module")
def folder(path: Path, made_once: MadeOnce) -> Path:
    return made_once(f"{path.stem}-sherpa", lambda folder: export(path, "sherpa-onnx", folder))


@pytest.mark.parametrize("length", ["seconds", "over 20 s"])
def test_sherpa_hears_what_pytorch_hears(
    path: Path, folder: Path, speech: dict[str, np.ndarray], length: str
) -> None:
    """Nearly: the operator rounds what it multiplies by to 8 bits, block by block."""
    [expected] = TorchRuntime(path).transcribe([speech[length]], streaming=True)
    [found] = SherpaRuntime(folder).transcribe([speech[length]])
    assert len(set(expected.tokens)) > 4
    errors = kaldialign.edit_distance(expected.tokens, found.tokens)["total"]
    assert errors <= 0.08 * len(expected.tokens)


def test_onnx_encodes_what_pytorch_encodes(path: Path, tmp_path: Path) -> None:
    export(path, "onnx", tmp_path / "onnx")
    runtime, model = OnnxRuntime(tmp_path / "onnx"), load_model(path).model
    features = torch.randn(1, 4 * runtime.chunk, 80, generator=torch.Generator().manual_seed(0))
    found, _ = runtime.step(features, runtime.initial_state(1))
    left = model.config.chunks.streaming.left
    with torch.no_grad():
        encoded, _ = model.step(features, model.initial_state(1, left))
        expected = model.joiner.encoder(encoded)
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_the_file_holds_the_very_integers_in_their_bits(path: Path, folder: Path) -> None:
    """Each MatMulNBits, decoded by its documentation, is a matrix of the model."""
    model = load_model(path).model
    matrices = {key: w().detach().numpy() for key, w in model.weights.stored.items()}
    found = []
    for file in ("encoder", "decoder", "joiner"):
        graph = onnx.load(folder / f"{file}.onnx").graph
        stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "MatMulNBits":
                found.append(decode(node, stored))
                assert {a.name: a.i for a in node.attribute}["accuracy_level"] == 4
        # What is left as floats is small: norms, biases, the rotation's table. (Kernels and tables
        # in blocks have no operator, and stay.)
        if all(w.format.block is None for w in model.weights.stored.values()):
            floats = [x.size for x in stored.values() if x.dtype == np.float32 and x.ndim > 1]
            assert sum(floats) < 8000
    assert len(found) >= 8
    for matrix in found:
        assert any(
            matrix.shape == m.shape and np.allclose(matrix, m, atol=1e-6) for m in matrices.values()
        )


def decode(node: onnx.NodeProto, stored: dict[str, np.ndarray]) -> np.ndarray:
    sizes = {a.name: a.i for a in node.attribute}
    bits, block = sizes["bits"], sizes["block_size"]
    codes, scale, *zero = (stored[name] for name in node.input[1:])
    places = np.arange(8 // bits) * bits
    numbers = (codes[..., None] >> places) & (2**bits - 1)  # [N, blocks, bytes, places]
    numbers = numbers.reshape(sizes["N"], -1, block).astype(np.float32)
    assert codes.dtype == np.uint8 and codes.size * 8 == numbers.size * bits
    middle = zero[0][..., None] if zero else 2 ** (bits - 1)
    return ((numbers - middle) * scale[..., None]).reshape(sizes["N"], -1)[:, : sizes["K"]]


def test_small_models_have_small_files(path: Path, folder: Path) -> None:
    plain = folder.parent / f"{folder.name}-plain"
    export(path, "safetensors", folder.parent / f"{path.stem}.safetensors")
    export(folder.parent / f"{path.stem}.safetensors", "sherpa-onnx", plain)
    sizes = [sum(f.stat().st_size for f in where.glob("*.onnx")) for where in (folder, plain)]
    assert sizes[0] < 0.8 * sizes[1]


def test_int8_of_what_is_small_already_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weights have formats of their own already"):
        export(path, "onnx", tmp_path / "out", int8=True)


@pytest.mark.parametrize("rules", ["int8", "int4 2:4"])
def test_a_matrix_used_both_ways_round(rules: str, tmp_path: Path) -> None:
    """Square and not: the scales are those of the stored matrix's rows, however it is used."""
    tie = [["attention.query", "attention.key^T"], ["ffn1.up", "ffn1.down^T"]]
    saved = talkative.talkative(**WIDE, formats=FORMATS[rules], sharing={"tie": tie})
    settle(saved.model)
    save_packed(tmp_path / "tied.pocket", saved)
    export(tmp_path / "tied.pocket", "onnx", tmp_path / "onnx")
    runtime, model = OnnxRuntime(tmp_path / "onnx"), load_model(tmp_path / "tied.pocket").model
    features = torch.randn(1, 4 * runtime.chunk, 80, generator=torch.Generator().manual_seed(0))
    found, _ = runtime.step(features, runtime.initial_state(1))
    with torch.no_grad():
        state = model.initial_state(1, model.config.chunks.streaming.left)
        expected = model.joiner.encoder(model.step(features, state)[0])
    assert (found - expected).norm() < 0.05 * expected.norm()
