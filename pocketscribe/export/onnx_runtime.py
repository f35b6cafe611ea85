"""Running an exported folder in onnxruntime, with our own streaming loop around it."""

import json
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from pocketscribe.decoding.searcher import GREEDY, SearchConfig
from pocketscribe.errors import UserError
from pocketscribe.export.graph_runtime import GRAPHS, GraphRuntime, checked
from pocketscribe.export.onnx import FORMAT


class OnnxRuntime(GraphRuntime):
    """An `export --to onnx` folder."""

    def __init__(self, folder: Path, search: SearchConfig = GREEDY, threads: int = 1) -> None:
        """Raises UserError where a file is missing, damaged, or was written by another version."""
        encoder = session(folder / "encoder.onnx", threads)
        super().__init__(folder, metadata(encoder, folder), search)
        self.sessions = {"encoder": encoder}
        for name in GRAPHS[1:] if self.scorer else ():
            self.sessions[name] = session(folder / f"{name}.onnx", threads)

    def run(self, graph: str, *inputs: Tensor) -> list[Tensor]:
        running = self.sessions[graph]
        names = [tensor.name for tensor in running.get_inputs()]
        feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(x) for x in running.run(None, feeds)]


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Opens one ONNX file; UserError where it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; the exported folder is not complete")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a family of its own for damaged files
        raise UserError(f"{path}: not a readable ONNX file ({str(error)[:120]})") from None


def metadata(encoder: onnxruntime.InferenceSession, folder: Path) -> dict:
    """What `export` wrote about the model; UserError where the folder is not ours."""
    about = json.loads(encoder.get_modelmeta().custom_metadata_map.get("pocketscribe", "{}"))
    return checked(about, FORMAT, folder)


def is_sherpa(folder: Path) -> bool:
    """Whether a folder was exported for sherpa-onnx."""
    encoder = session(folder / "encoder.onnx", 1)
    return "model_type" in encoder.get_modelmeta().custom_metadata_map
