"""A few-bit model in ExecuTorch's own runtime: the file's integers, heard as in PyTorch."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import kaldialign
import numpy as np
import pytest
import torch
from torchao.quantization import IntxUnpackedToInt8Tensor

import talkative
from pocketscribe.errors import UserError
from pocketscribe.export import executorch
from pocketscribe.export.executorch_runtime import FORMAT, ExecutorchRuntime
from pocketscribe.export.export import export
from pocketscribe.export.open import open_model
from pocketscribe.export.seal import BLANK_SEAL, seal
from pocketscribe.export.size import size_of_file
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.files import read_json
from pocketscribe.models.saved import load_model, save_packed
from pocketscribe.training.masks import settle
from pocketscribe.weights import Format, Weight

MadeOnce = Callable[..., Path]


@pytest.fixture(scope="session")
def path(made_once: MadeOnce) -> Path:
    """Two layers of one block, so that sharing shows in the file."""

    def make(path: Path) -> None:
        saved = talkative.talkative(
            encoder={"width": 128, "layers": 2, "heads": 2, "kernel": 4},
            sharing={"blocks": 1},
            formats=[
                {"match": "*.depthwise", "bits": 8},
                {"match": "joiner.*", "bits": 8},
                {"match": "*", "bits": 4, "sparsity": "2:4"},
            ],
        )
        settle(saved.model)
        save_packed(path, saved)

    return made_once("for-executorch.pocket", make)


@pytest.fixture(scope="session")
def folder(made_once: MadeOnce, path: Path) -> Path:
    return made_once("executorch", lambda folder: export(path, "executorch", folder))


def check_equal(path: Path, folder: Path, audio: np.ndarray) -> None:
    """Nearly: activations have one zero point a row here, and none in PyTorch."""
    [expected] = TorchRuntime(path).transcribe([audio], streaming=True)
    [found] = ExecutorchRuntime(folder).transcribe([audio])
    assert len(set(expected.tokens)) > 4
    errors = kaldialign.edit_distance(expected.tokens, found.tokens)["total"]
    assert errors <= 0.08 * len(expected.tokens)


@pytest.mark.parametrize("length", ["seconds", "over 20 s"])
def test_it_hears_what_pytorch_hears(
    path: Path, folder: Path, speech: dict[str, np.ndarray], length: str
) -> None:
    check_equal(path, folder, speech[length])


def test_real_speech_over_20_s(path: Path, folder: Path, real_speech: np.ndarray) -> None:
    check_equal(path, folder, real_speech)


def test_chunk_after_chunk_it_encodes_what_pytorch_encodes(path: Path, folder: Path) -> None:
    runtime, model = open_model(folder), load_model(path).model
    assert isinstance(runtime, ExecutorchRuntime)
    state, other = model.initial_state(1, left=8), runtime.initial_state(1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        features = 3 * torch.randn(1, 16, 80, generator=generator)
        with torch.no_grad():
            encoded, state = model.step(features, state)
            expected = model.joiner.encoder(encoded)
        found, other = runtime.step(features, other)
        assert (found - expected).norm() < 0.05 * expected.norm()
    for name, tensor in state.items():
        assert (other[name] - tensor).norm() <= 0.05 * tensor.norm()


def test_a_shared_tensor_is_in_the_file_once_and_in_4_bits(path: Path, folder: Path) -> None:
    weights = [w for w in load_model(path).model.weights.stored.values() if w.format.bits == 4]
    encoder = sum(w.stored.numel() for w in weights if w.key.startswith("encoder."))
    found = size_of_file(folder)
    once = encoder * (4 + 16 / 32) / 8  # a group's scale takes 16 bits
    assert once < found["parts"]["encoder.pte"] < 1.8 * once
    assert sum(found["parts"].values()) == found["bytes"] == ExecutorchRuntime(folder).bytes
    assert set(found["parts"]) == {f"{x}.pte" for x in ("encoder", "decoder", "joiner")} | {
        "model.json"
    }


@pytest.mark.parametrize(
    "format",
    [
        {"bits": 4, "sparsity": "2:4"},
        {"bits": 4, "block": 64},
        {"bits": 4, "block": 128},
        {"bits": 2, "clip": "search"},
        {"bits": 8},
    ],
    ids=str,
)
@pytest.mark.parametrize("fan_in", [96, 40, 288])
def test_weights_keep_their_integers(format: dict, fan_in: int) -> None:
    weight = Weight("w", 8, fan_in, 1.0, Format(**format))
    product = executorch._Product(weight)
    matrix = product.weight.data
    assert isinstance(matrix, IntxUnpackedToInt8Tensor)
    torch.testing.assert_close(matrix.dequantize()[:, :fan_in], weight(), rtol=1e-6, atol=0)
    x = torch.randn(3, fan_in)
    expected = x @ weight().T
    assert (product(x) - expected).norm() < 0.02 * expected.norm()


def test_grids_that_xnnpack_has_not_stay_float() -> None:
    odd = [{"bits": 4, "symmetric": False}, {"bits": 4, "block": 16}, {"bits": 8, "block": 32}, {}]
    assert not any(executorch._possible(Format(**x)) for x in odd)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("encoder.pte", b"no program", "a file is missing, damaged, or altered"),
        ("joiner.pte", None, "a file is missing, damaged, or altered"),
        ("model.json", None, "model.json: no such file"),
        ("model.json", b"{", "damaged, or not exported by this version"),
        ("model.json", json.dumps({"format": "other"}).encode(), "not exported by this version"),
        ("model.json", json.dumps({"format": FORMAT}).encode(), "not exported by this version"),
    ],
)
def test_damaged_folders_are_refused(
    folder: Path, tmp_path: Path, file: str, content: bytes | None, said: str
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    if content is None:
        (tmp_path / "copy" / file).unlink()
    else:
        (tmp_path / "copy" / file).write_bytes(content)
    with pytest.raises(UserError, match=said):
        open_model(tmp_path / "copy")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "not exported by this version"),
        ({"frames": 10**9}, r"frames = 1000000000: input should be less than or equal to"),
        ({"frames": 32}, "encoder.pte: it takes other inputs than its description says"),
        ({"states": {"past": [-3]}}, r"states.past.0 = -3: input should be greater"),
        ({"head": "ctc"}, "encoder.pte: .* comes out as"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "model.json"
    path.write_text(json.dumps({**read_json(path), "seal": BLANK_SEAL, **change}))
    seal(tmp_path / "copy", "model.json")
    with pytest.raises(UserError, match=said):
        open_model(tmp_path / "copy")


def test_what_it_cannot_do_is_refused(path: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--chunk 8: .* exported for chunks of 4"):
        open_model(folder, chunk=8)
    with pytest.raises(UserError, match="--int8 is for onnx targets"):
        export(path, "executorch", tmp_path / "out", int8=True)
    assert list(tmp_path.iterdir()) == []


def test_its_package_may_be_missing(
    path: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("executorch", "executorch_runtime"):
        monkeypatch.delitem(sys.modules, f"pocketscribe.export.{module}")
    monkeypatch.setitem(sys.modules, "executorch", None)
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    line = r"is not installed; pip install 'pocketscribe\[executorch\]'"
    with pytest.raises(UserError, match=line):
        export(path, "executorch", tmp_path / "out")
    with pytest.raises(UserError, match=line):
        open_model(folder)
