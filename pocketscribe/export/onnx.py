"""ONNX files: plain ones with named states, and the four files of a sherpa-onnx model.

A folder holds encoder.onnx, decoder.onnx, joiner.onnx (a CTC model has its encoder alone) and
tokens.txt; where units are longer than a character also bpe.vocab, by which sherpa-onnx spells
hotwords and which nothing else needs. What a runtime needs to know is metadata of encoder.onnx,
written by construction.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx_ir.passes.common import DeduplicateInitializersPass
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from pocketscribe.errors import UserError
from pocketscribe.export.graph import (
    FlatGraph,
    JoinerGraph,
    PredictorGraph,
    StreamingGraph,
    describe,
)
from pocketscribe.export.low_bits import with_low_bits
from pocketscribe.export.quiet import quietly
from pocketscribe.export.seal import BLANK_SEAL, seal
from pocketscribe.files import replacing
from pocketscribe.models import Chunking, Recogniser, decoded
from pocketscribe.models.predictor import CONTEXT
from pocketscribe.models.saved import Saved
from pocketscribe.speech.units import Units

OPSET, IR_VERSION = 18, 9  # sherpa-onnx 1.10.46 reads no later ones
FORMAT = "pocketscribe-onnx-2"


def export_onnx(saved: Saved, chunking: Chunking, out: Path, *, sherpa: bool, int8: bool) -> None:
    """Writes a model's folder; `sherpa` for sherpa-onnx, `int8` with matrices quantised live.

    Raises:
        UserError: the model has no transducer head where sherpa-onnx wants one, or formats of its
            own where int8 is asked for.
    """
    model = saved.model
    if sherpa and model.config.head != "transducer":
        raise UserError(
            "export --to sherpa-onnx: this model has a CTC head; train head = 'transducer', "
            "or export --to onnx"
        )
    formatted, model = model, decoded(model)
    if int8 and formatted is not model:
        raise UserError("export --int8: this model's weights have formats of their own already")
    graph = StreamingGraph(model, chunking)
    about = {"format": FORMAT, "seal": BLANK_SEAL, **describe(saved, graph)}
    ours = {"pocketscribe": json.dumps(about)}
    found = {"encoder": _flat_encoder(graph, ours) if sherpa else _encoder(graph, ours)}
    if model.config.head == "transducer":
        found |= {"decoder": _decoder(model), "joiner": _joiner(model)}
    with replacing(out, folder=True) as folder:
        for name, proto in found.items():
            proto = _quantised(proto) if int8 else _transposes_once(proto)
            proto = proto if formatted is model else with_low_bits(proto, formatted)
            proto.ir_version = IR_VERSION
            onnx.save(proto, folder / f"{name}.onnx")
        units = Units.from_json(saved.units)
        (folder / "tokens.txt").write_text(tokens_text(units), encoding="utf-8")
        if not units.are_characters:
            (folder / "bpe.vocab").write_text(vocabulary_text(units), encoding="utf-8")
        seal(folder, "encoder.onnx")


def tokens_text(units: Units) -> str:
    """A line a unit: its symbol and its id."""
    return "".join(f"{symbol} {index}\n" for index, symbol in enumerate(units.symbols()))


def vocabulary_text(units: Units) -> str:
    """A line a unit: its symbol and sentencepiece's score, as `spm_export_vocab` writes them."""
    return "".join(f"{s}\t{x:g}\n" for s, x in zip(units.symbols(), units.scores(), strict=True))


def _encoder(graph: StreamingGraph, metadata: dict[str, Any]) -> onnx.ModelProto:
    """With a named input and output for each state."""
    inputs = ["features", *graph.state_names]
    outputs = ["encoder_out", *(f"new_{name}" for name in graph.state_names)]
    return traced(graph, graph.example(2), inputs, outputs, [0] * len(inputs), metadata)


def _flat_encoder(graph: StreamingGraph, metadata: dict[str, Any]) -> onnx.ModelProto:
    """As sherpa-onnx wants it."""
    flat = FlatGraph(graph)
    inputs = ["x", "cached_attn", "cached_conv", "processed_lens"]
    outputs = ["encoder_out", "new_cached_attn", "new_cached_conv"]
    metadata = {**_sherpa_metadata(flat, graph), **metadata}
    return traced(flat, flat.example(2), inputs, outputs, [0, 2, 2, 0], metadata)


def _decoder(model: Recogniser) -> onnx.ModelProto:
    context = torch.tensor([[-1, 0], [-1, 0]])
    sizes = {"context_size": CONTEXT, "vocab_size": model.vocabulary}
    return traced(PredictorGraph(model), (context,), ["y"], ["decoder_out"], [0], sizes)


def _joiner(model: Recogniser) -> onnx.ModelProto:
    # Two tensors, not one twice: the exporter would take them for a single input.
    pair = torch.zeros(2, 2, model.config.joiner).unbind()
    names = ["encoder_out", "decoder_out"]
    return traced(
        JoinerGraph(model), pair, names, ["logit"], [0, 0], {"joiner_dim": pair[0].shape[1]}
    )


def _sherpa_metadata(flat: FlatGraph, graph: StreamingGraph) -> dict[str, int | str]:
    """The keys without which sherpa-onnx ends the process, as tried."""
    return {
        "model_type": "conformer",
        "version": "1",
        "model_author": "pocketscribe",
        "num_encoder_layers": 1,
        "T": graph.frames,
        "decode_chunk_len": graph.frames,
        "left_context": 1,
        "encoder_dim": flat.row,
        "pad_length": 0,
        "cnn_module_kernel": 2,
    }


def traced(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    stream_axes: list[int] | None,
    metadata: dict[str, Any],
) -> onnx.ModelProto:
    """Traces a module: tensors, nodes, `metadata`, nothing else.

    `stream_axes` are the inputs' axes of streams, whose number is free; None where none is.
    """
    streams = torch.export.Dim("N", min=1)
    shapes: Any = stream_axes and tuple({axis: streams} for axis in stream_axes)
    if isinstance(module, StreamingGraph):  # *state is one argument to torch.export
        shapes = (shapes[0], shapes[1:])
    with quietly():
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    # The exporter writes a shared tensor again wherever it folds it.
    DeduplicateInitializersPass(size_limit=sys.maxsize)(program.model)
    proto: onnx.ModelProto = program.model_proto
    graph = proto.graph
    # The exporter notes at each node where it came from (twice a small model's size, and whose disk
    # it was made on), and shapes that onnxruntime's quantiser contradicts.
    del graph.value_info[:]
    for noted in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del noted.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=str(value))
    return proto


def _transposes_once(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Computes a matrix that is another one's transpose instead of storing it.

    Not before `_quantised`, which only sees matrices that are stored as they are used: in int8 such
    a matrix is there twice, each with the scales of its own output channels.
    """
    graph = proto.graph
    kept: dict[tuple[Any, ...], str] = {}
    flips: list[onnx.NodeProto] = []
    for tensor in list(graph.initializer):
        array = onnx.numpy_helper.to_array(tensor)
        source = kept.get((array.dtype, array.T.shape, array.T.tobytes()))
        if source and array.ndim == 2 and array.size > 1:
            flips.append(onnx.helper.make_node("Transpose", [source], [tensor.name], perm=[1, 0]))
            graph.initializer.remove(tensor)
        else:
            kept[array.dtype, array.shape, array.tobytes()] = tensor.name
    nodes = [*flips, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return proto


def _quantised(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Dynamic int8 for matrix products alone: convolutions suffer, as measured."""
    with quietly(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantised.onnx"
        quantize_dynamic(
            proto,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        return onnx.load(path)
