"""PyTorch streaming = onnxruntime; what an exported folder holds; what is refused."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pocketscribe.decoding.searcher import DecodingConfig
from pocketscribe.decoding.streaming import Transcript
from pocketscribe.errors import UserError
from pocketscribe.export.export import export
from pocketscribe.export.onnx_runtime import OnnxRuntime, properties
from pocketscribe.export.open import open_model
from pocketscribe.export.seal import folder_bytes
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.models.saved import Saved, load_model, save_model
from pocketscribe.speech.units import Units

CHUNK = 4
Heard = Callable[[str, int], Transcript]


@pytest.mark.parametrize("beam", [1, 3], ids=["greedy", "beam"])
@pytest.mark.parametrize("length", ["shorter than a chunk", "seconds", "over 20 s"])
def test_transcripts_equal_those_of_pytorch(
    pytorch: Heard, onnx_folder: Path, speech: dict[str, np.ndarray], length: str, beam: int
) -> None:
    [found] = OnnxRuntime(onnx_folder, DecodingConfig(beam=beam)).transcribe([speech[length]])
    assert found == pytorch(length, beam)


@pytest.mark.parametrize("beam", [1, 3], ids=["greedy", "beam"])
def test_transcripts_of_real_speech_equal_those_of_pytorch(
    model_path: Path, onnx_folder: Path, real_speech: np.ndarray, beam: int
) -> None:
    search = DecodingConfig(beam=beam)
    [expected] = TorchRuntime(model_path, search).transcribe([real_speech], streaming=True)
    assert OnnxRuntime(onnx_folder, search).transcribe([real_speech]) == [expected]
    assert len(set(expected.tokens)) > 4 and expected.timestamps[-1] > 20


def test_every_chunk_and_state_equals_pytorch(onnx_folder: Path, saved: Saved) -> None:
    runtime, model = OnnxRuntime(onnx_folder), saved.model
    state = model.initial_state(3, left=8)
    other = runtime.initial_state(3)
    assert {k: v.shape for k, v in other.items()} == {k: v.shape for k, v in state.items()}
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for _ in range(4):
            x = 3 * torch.randn(3, 4 * CHUNK, 80, generator=generator)
            y, state = model.step(x, state)
            found, other = runtime.step(x, other)
            torch.testing.assert_close(found, model.joiner.encoder(y), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(other, state, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("folder", ["onnx_folder", "sherpa_folder", "int8_folder"])
def test_a_folder_holds_what_a_device_needs_and_nothing_more(
    folder: str, request: pytest.FixtureRequest, saved: Saved
) -> None:
    folder_path: Path = request.getfixturevalue(folder)
    names = {"encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt"}
    assert {p.name for p in folder_path.iterdir()} == names
    for path in folder_path.glob("*.onnx"):
        onnx.checker.check_model(path)
        proto = onnx.load(path)
        assert proto.ir_version <= 9, "what sherpa-onnx 1.10.46 reads"
        graph = proto.graph
        # Where the exporter found a node, it would also say on whose disk.
        assert not any(node.metadata_props for node in graph.node)
        assert Path.cwd().as_posix().encode() not in path.read_bytes()
        stored = [onnx.numpy_helper.to_array(x) for x in graph.initializer]
        contents = Counter((x.shape, x.tobytes()) for x in stored if x.size > 1)
        twice = {shape for (shape, _), count in contents.items() if count > 1}
        assert not twice - {(16,), (64,)}, "only int8 zero points may be equal by chance"
    symbols = Units.from_json(saved.units).symbols()
    lines = (folder_path / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [f"{symbol} {index}" for index, symbol in enumerate(symbols)]
    assert lines[:2] == ["<blk> 0", "<unk> 1"]


def test_our_metadata(onnx_folder: Path, saved: Saved) -> None:
    props = {p.key: p.value for p in onnx.load(onnx_folder / "encoder.onnx").metadata_props}
    assert props.keys() == {"pocketscribe"}
    about = json.loads(props["pocketscribe"])
    assert about["head"] == "transducer" and about["frames"] == 4 * CHUNK
    assert about["card"] == saved.card and about["units"] == saved.units
    runtime, torch_sizes = OnnxRuntime(onnx_folder), saved.model.state_dict()
    shipped = {n: t for n, t in torch_sizes.items() if not n.startswith("auxiliary.")}
    buffers = shipped["mean"].numel() + shipped["inverse_std"].numel()
    assert runtime.parameters_stored == sum(t.numel() for t in shipped.values()) - buffers
    assert runtime.bytes == sum(p.stat().st_size for p in onnx_folder.iterdir())


def test_int8_quantises_matrices_and_leaves_convolutions_alone(
    sherpa_folder: Path, int8_folder: Path
) -> None:
    kinds = {
        p.stem: Counter(n.op_type for n in onnx.load(p).graph.node)
        for p in int8_folder.glob("*.onnx")
    }
    before = Counter(n.op_type for n in onnx.load(sherpa_folder / "encoder.onnx").graph.node)
    assert before["MatMul"] > 10 and before["Conv"] == kinds["encoder"]["Conv"] == 1
    assert kinds["encoder"]["MatMulInteger"] == before["MatMul"] - 2, "all but attention's own two"
    assert kinds["joiner"]["MatMulInteger"] == kinds["decoder"]["MatMulInteger"] == 1
    everything = sum(kinds.values(), Counter())
    assert not everything.keys() & {"ConvInteger", "QLinearConv", "Gemm", "QGemm"}
    assert folder_bytes(int8_folder) < folder_bytes(sherpa_folder)


def test_ctc_model_and_another_chunk_size(
    ctc_path: Path, ctc_folder: Path, speech: dict[str, np.ndarray]
) -> None:
    assert {p.name for p in ctc_folder.iterdir()} == {"encoder.onnx", "tokens.txt"}
    [expected] = TorchRuntime(ctc_path, chunk=8).transcribe([speech["seconds"]], streaming=True)
    runtime = open_model(ctc_folder)
    assert runtime.chunk == 8
    [found] = runtime.transcribe([speech["seconds"]], streaming=True)
    assert found == expected and len(set(found.tokens)) > 2
    for model in (ctc_path, ctc_folder):
        with pytest.raises(UserError, match="beam search needs a transducer"):
            open_model(model, DecodingConfig(beam=2)).transcribe(
                [speech["seconds"]], streaming=True
            )


def test_safetensors_are_half_as_large_and_nearly_equal(
    tmp_path: Path, model_path: Path, saved: Saved
) -> None:
    out = tmp_path / "model.safetensors"
    assert export(model_path, "safetensors", out) == out.stat().st_size
    half = load_model(out).model.state_dict()
    for name, tensor in saved.model.state_dict().items():
        if not name.startswith("auxiliary."):
            assert torch.equal(half[name], tensor.half().float()), name


class TestRefusals:
    """Each by one line; nothing is left where the export would have been."""

    def refuse(self, message: str, model: Path, to: str, out: Path, **options: object) -> None:
        with pytest.raises(UserError, match=message):
            export(model, to, out, **options)
        assert list(out.parent.iterdir()) == []

    def test_unknown_target(self, model_path: Path, tmp_path: Path) -> None:
        self.refuse(
            "--to tflite: not a target; choose packed, safetensors, onnx",
            model_path,
            "tflite",
            tmp_path / "x",
        )

    def test_ctc_for_sherpa(self, ctc_path: Path, tmp_path: Path) -> None:
        self.refuse("CTC head; .* --to onnx", ctc_path, "sherpa-onnx", tmp_path / "x")

    def test_int8_safetensors(self, model_path: Path, tmp_path: Path) -> None:
        self.refuse("--int8 is for onnx", model_path, "safetensors", tmp_path / "x", int8=True)

    def test_chunk_not_trained_for(self, model_path: Path, tmp_path: Path) -> None:
        self.refuse(
            "--chunk 5: .* chunks of full, 4, 8", model_path, "onnx", tmp_path / "x", chunk=5
        )

    def test_full_context_alone(self, ctc: Saved, tmp_path: Path) -> None:
        (tmp_path / "models").mkdir()
        config = ctc.model.config
        chunks = config.chunks.model_copy(update={"sizes": ("full",)})
        model = type(ctc.model)(config.model_copy(update={"chunks": chunks}), ctc.model.vocabulary)
        save_model(tmp_path / "models" / "full", Saved(model, ctc.units))
        (tmp_path / "out").mkdir()
        self.refuse("cannot stream", tmp_path / "models" / "full", "onnx", tmp_path / "out" / "x")

    def test_package_missing(
        self, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "pocketscribe.export.onnx")
        monkeypatch.setitem(sys.modules, "onnx", None)
        self.refuse(
            r"onnx is not installed; pip install 'pocketscribe\[export\]'",
            model_path,
            "onnx",
            tmp_path / "x",
        )

    def test_folder_in_place_of_a_file(self, model_path: Path, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(UserError, match="is a folder already"):
            export(model_path, "safetensors", tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt"])
@pytest.mark.parametrize("harm", ["missing", "cut short", "garbage"])
@pytest.mark.parametrize("kind", ["onnx_folder", "sherpa_folder"])
def test_damaged_folder_is_refused(
    kind: str, name: str, harm: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(request.getfixturevalue(kind), folder)
    path = folder / name
    if harm == "missing":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if harm == "cut short" else b"\x07" * 1000)
    with pytest.raises(UserError, match="export"):
        open_model(folder)


def test_foreign_onnx_file_is_refused(tmp_path: Path, onnx_folder: Path) -> None:
    shutil.copytree(onnx_folder, tmp_path / "model")
    proto = onnx.load(tmp_path / "model" / "encoder.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "model" / "encoder.onnx")
    with pytest.raises(UserError, match="not exported by this version"):
        open_model(tmp_path / "model")


def test_a_constant_in_another_file_is_refused(tmp_path: Path) -> None:
    """As an initializer there is: whatever lies beside the graph would be read."""
    held = onnx.TensorProto(name="c", data_type=onnx.TensorProto.FLOAT, dims=[1])
    held.data_location = onnx.TensorProto.EXTERNAL
    held.external_data.add(key="location", value="secret")
    node = onnx.helper.make_node("Constant", [], ["c"], value=held)
    graph = onnx.helper.make_graph([node], "g", [], [])
    path = tmp_path / "encoder.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(UserError, match="holds what no export writes"):
        properties(path)
