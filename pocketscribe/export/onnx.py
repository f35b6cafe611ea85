"""ONNX files: plain ones with named states, and the four files of a sherpa-onnx model.

A folder holds encoder.onnx, decoder.onnx, joiner.onnx (a CTC model has its encoder alone) and
tokens.txt. What a runtime needs to know is metadata of encoder.onnx, written by construction.
"""

import json
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from pocketscribe.errors import UserError
from pocketscribe.export.graph import FlatGraph, JoinerGraph, PredictorGraph, StreamingGraph
from pocketscribe.files import replacing
from pocketscribe.models import Chunking, Recogniser, deployed_parameters
from pocketscribe.models.predictor import CONTEXT
from pocketscribe.models.saved import Saved
from pocketscribe.speech.units import Units

OPSET = 18
FORMAT = "pocketscribe-onnx-1"


def export_onnx(saved: Saved, chunking: Chunking, out: Path, *, sherpa: bool, int8: bool) -> None:
    """Writes a model's folder; `sherpa` for sherpa-onnx, `int8` with dynamically quantised matrices.

    Raises:
        UserError: the model cannot stream, or has no transducer head where sherpa-onnx wants one.
    """
    model = saved.model
    if chunking.size is None:
        raise UserError("export: this model was trained for full context alone and cannot stream")
    if sherpa and model.config.head != "transducer":
        raise UserError(
            "export --to sherpa-onnx: this model has a CTC head; train head = 'transducer', "
            "or export --to onnx"
        )
    graph = StreamingGraph(model, chunking)
    with replacing(out) as folder:
        folder.mkdir()
        encoder = folder / "encoder.onnx"
        if sherpa:
            flat = FlatGraph(graph)
            inputs = ["x", "cached_attn", "cached_conv", "processed_lens"]
            outputs = ["encoder_out", "new_cached_attn", "new_cached_conv"]
            _write(flat, flat.example(2), inputs, outputs, encoder, [0, 2, 2, 0])
            metadata = _sherpa_metadata(flat, graph)
        else:
            outputs = ["encoder_out", *(f"new_{name}" for name in graph.state_names)]
            inputs = ["features", *graph.state_names]
            _write(graph, graph.example(2), inputs, outputs, encoder, [0] * len(inputs))
            metadata = {}
        if model.config.head == "transducer":
            _write_head(model, folder)
        if int8:
            for path in folder.glob("*.onnx"):
                _quantise(path)
        _add_metadata(encoder, {**metadata, "pocketscribe": json.dumps(_ours(saved, graph))})
        symbols = Units.from_json(saved.units).symbols()
        lines = (f"{symbol} {index}\n" for index, symbol in enumerate(symbols))
        (folder / "tokens.txt").write_text("".join(lines), encoding="utf-8")


def _write_head(model: Recogniser, folder: Path) -> None:
    """decoder.onnx and joiner.onnx."""
    context = torch.tensor([[-1, 0], [-1, 0]])
    decoder = PredictorGraph(model)
    _write(decoder, (context,), ["y"], ["decoder_out"], folder / "decoder.onnx", [0])
    sizes = {"context_size": CONTEXT, "vocab_size": model.vocabulary}
    _add_metadata(folder / "decoder.onnx", sizes)
    # Two tensors, not one twice: the exporter would take them for a single input.
    joined = torch.zeros(2, 2, model.config.joiner)
    names = ["encoder_out", "decoder_out"]
    path = folder / "joiner.onnx"
    _write(JoinerGraph(model), tuple(joined.unbind()), names, ["logit"], path, [0, 0])
    _add_metadata(path, {"joiner_dim": model.config.joiner})


def _ours(saved: Saved, graph: StreamingGraph) -> dict[str, Any]:
    """What our own runtime reads back."""
    return {
        "format": FORMAT,
        "head": saved.model.config.head,
        "frames": graph.frames,
        "states": graph.state_shapes,
        "units": saved.units,
        "parameters": sum(p.numel() for p in deployed_parameters(saved.model).values()),
        "card": saved.card,
    }


def _sherpa_metadata(flat: FlatGraph, graph: StreamingGraph) -> dict[str, int | str]:
    """The keys without which sherpa-onnx ends the process (deployment.md)."""
    attention, convolution = flat.sizes
    return {
        "model_type": "conformer",
        "version": "1",
        "model_author": "pocketscribe",
        "num_encoder_layers": 1,
        "T": graph.frames,
        "decode_chunk_len": graph.frames,
        "left_context": attention,
        "encoder_dim": 1,
        "pad_length": 0,
        "cnn_module_kernel": convolution + 1,
    }


def _write(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    path: Path,
    stream_axes: list[int],
) -> None:
    """Traces a module with a free number of streams and writes it with every tensor inside."""
    streams = torch.export.Dim("N", min=1)
    shapes: Any = tuple({axis: streams} for axis in stream_axes)
    if isinstance(module, StreamingGraph):  # *state is one argument to torch.export
        shapes = (shapes[0], shapes[1:])
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            example,
            str(path),
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _quantise(path: Path) -> None:
    """Dynamic int8 for matrix products alone: convolutions suffer (deployment.md)."""
    model = onnx.load(path)
    # torch's exporter leaves shapes there that onnxruntime's own inference contradicts.
    del model.graph.value_info[:]
    with tempfile.TemporaryDirectory() as folder:
        quantised = Path(folder) / path.name
        quantize_dynamic(
            model,
            quantised,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        path.write_bytes(quantised.read_bytes())


def _add_metadata(path: Path, values: dict[str, Any]) -> None:
    model = onnx.load(path)
    for key, value in values.items():
        model.metadata_props.add(key=key, value=str(value))
    onnx.save(model, path)
