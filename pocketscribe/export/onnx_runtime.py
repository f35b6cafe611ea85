"""Running an exported folder in onnxruntime, with our own streaming loop around it.

Dimensions of ports: a number, or None for the number of streams.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime import InferenceSession
from torch import Tensor

from pocketscribe.decoding.searcher import GREEDY, DecodingConfig
from pocketscribe.errors import UserError
from pocketscribe.export.graph_runtime import Exported, GraphRuntime, checked
from pocketscribe.export.onnx import FORMAT
from pocketscribe.export.seal import check_seal, folder_bytes
from pocketscribe.files import parse_json
from pocketscribe.models import MELS
from pocketscribe.models.predictor import CONTEXT
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.units import Units

Port = tuple[str, str, tuple[int | None, ...]]  # a graph's input or output: name, type, shape
FLOAT, INT = "tensor(float)", "tensor(int64)"
NUMPY = {FLOAT: np.float32, INT: np.int64}
ROOM = 128 * 2**20  # bytes for what a graph computes
COPIES = 8  # of a file's bytes in memory: it may hold its weights in 4 bits


class OnnxRuntime(GraphRuntime):
    """An `export --to onnx` folder."""

    def __init__(self, folder: Path, search: DecodingConfig = GREEDY) -> None:
        """Raises UserError where a file is missing, damaged, or was written by another version."""
        about = description(folder)
        super().__init__(folder, about, search)
        self.folder = folder
        self.sessions = sessions(folder, about)
        states: list[Port] = [(n, FLOAT, (None, *shape)) for n, shape in about.states.items()]
        check_graphs(folder, self.sessions, about, "features", states)

    def run(self, graph: str, *inputs: Tensor) -> list[Tensor]:
        running = self.sessions[graph]
        names = [tensor.name for tensor in running.get_inputs()]
        feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(x) for x in run(running, feeds, self.folder / f"{graph}.onnx")]


def properties(path: Path) -> dict[str, str]:
    """The metadata of an ONNX file, which nothing has run yet.

    Raises:
        UserError: it is none, or holds what no export of ours does and what may never end: loops,
            functions, and tensors in other files.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; the exported folder is not complete")
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises a family of its own for damaged files
        raise UserError(f"{path}: not a readable ONNX file ({error})") from None
    attributes = [a for node in proto.graph.node for a in node.attribute]
    inner = any(a.HasField("g") or a.graphs for a in attributes)
    held = [t for a in attributes for t in (a.t, *a.tensors)] + list(proto.graph.initializer)
    if inner or proto.functions or any(t.external_data for t in held):
        raise UserError(f"{path}: holds what no export writes (loops, functions, other files)")
    return {p.key: p.value for p in proto.metadata_props}


def description(folder: Path) -> Exported:
    """What the export wrote about the model; UserError where the folder is not ours, or damaged."""
    check_seal(folder, "encoder.onnx")
    written = properties(folder / "encoder.onnx").get("pocketscribe", "{}")
    return checked(parse_json(written, str(folder / "encoder.onnx")), FORMAT, folder)


def is_sherpa(folder: Path) -> bool:
    """Whether a folder was exported for sherpa-onnx."""
    check_seal(folder, "encoder.onnx")
    return "model_type" in properties(folder / "encoder.onnx")


def sessions(folder: Path, about: Exported) -> dict[str, InferenceSession]:
    """Opens every graph; together they may take memory in proportion to their files alone."""
    room = onnxruntime.OrtArenaCfg(ROOM + COPIES * folder_bytes(folder), -1, -1, -1)
    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    place = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(place, room)
    return {name: _session(folder / f"{name}.onnx") for name in about.graphs}


def _session(path: Path) -> InferenceSession:
    """Opens one ONNX file; UserError where it is missing or damaged."""
    properties(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it has to say comes with the exception
    options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        return InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a family of its own for damaged files
        raise UserError(f"{path}: not a readable ONNX file ({str(error)[:120]})") from None


def run(running: InferenceSession, feeds: dict[str, np.ndarray], path: Path) -> list[np.ndarray]:
    """All outputs; UserError where the graph fails."""
    try:
        return running.run(None, feeds)
    except Exception as error:  # as above
        raise UserError(f"{path}: does not run ({str(error)[:120]})") from None


def check_graphs(
    folder: Path,
    opened: dict[str, InferenceSession],
    about: Exported,
    features: str,
    states: list[Port],
    unused: Sequence[Port] = (),
) -> None:
    """Compares the ports of all graphs with what the runtime will feed them, and tries each once.

    `features`, `states` and what the graph does not look at are the encoder's inputs, in order.

    Raises:
        UserError: a graph has other ports, fails, or gives another shape than it says.
    """
    width = units = len(Units.from_json(about.units, str(folder)))
    if about.head == "transducer":  # the joiner's width is not said anywhere; all must agree on it
        width = next((d for o in opened["encoder"].get_outputs()[:1] for d in o.shape[-1:]), 0)
    new: list[Port] = [(f"new_{name}", kind, shape) for name, kind, shape in states]
    ports: dict[str, tuple[list[Port], list[Port]]] = {
        "encoder": (
            [(features, FLOAT, (None, about.frames, MELS)), *states, *unused],
            [("encoder_out", FLOAT, (None, about.frames // FACTOR, width)), *new],
        )
    }
    if about.head == "transducer":
        half = (None, width)
        ports["decoder"] = [("y", INT, (None, CONTEXT))], [("decoder_out", FLOAT, half)]
        ports["joiner"] = (
            [("encoder_out", FLOAT, half), ("decoder_out", FLOAT, half)],
            [("logit", FLOAT, (None, units))],
        )
    for name, (ins, outs) in ports.items():
        path, graph = folder / f"{name}.onnx", opened[name]
        if not isinstance(width, int) or _ports(graph.get_inputs()) != ins:
            raise UserError(f"{path}: its inputs do not fit its description; export it again")
        if _ports(graph.get_outputs()) != outs:
            raise UserError(f"{path}: its outputs do not fit its description; export it again")
        feeds = {n: np.zeros([d or 1 for d in shape], NUMPY[kind]) for n, kind, shape in ins}
        for found, (output, _, shape) in zip(run(graph, feeds, path), outs, strict=True):
            if found.shape != tuple(1 if d is None else d for d in shape):
                raise UserError(f"{path}: {output} comes out as {found.shape}; export it again")
            if not np.isfinite(found).all():
                raise UserError(f"{path}: {output} holds what is no number; export it again")


def _ports(tensors: Iterable[Any]) -> list[Port]:
    return [
        (t.name, t.type, tuple(d if isinstance(d, int) else None for d in t.shape)) for t in tensors
    ]
