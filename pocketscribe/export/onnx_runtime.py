"""Running an exported folder in onnxruntime, with our own streaming loop around it.

Dimensions: N streams, T feature frames of a chunk, F mel bins, J encoder output, V vocabulary.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pocketscribe.decoding.search import BeamSearch, CtcSearch, GreedySearch, Search
from pocketscribe.decoding.streaming import Stream, Transcript, stream_one
from pocketscribe.errors import UserError
from pocketscribe.export.onnx import FORMAT
from pocketscribe.models import State
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.units import Units


class OnnxRuntime:
    """An `export --to onnx` folder; always streams."""

    def __init__(self, folder: Path, beam: int = 1, threads: int = 1) -> None:
        """Raises UserError where a file is missing, damaged, or was written by another version."""
        self.encoder = session(folder / "encoder.onnx", threads)
        about = metadata(self.encoder, folder)
        self.units, self.beam = Units.from_json(about["units"]), beam
        self.card = about["card"]
        self.chunk = about["frames"] // FACTOR
        self.shapes: dict[str, list[int]] = about["states"]
        self.parameters_stored = about["parameters_stored"]
        self.parameters_virtual = about["parameters_virtual"]
        self.bytes = folder_bytes(folder)
        if about["head"] == "transducer":
            self.decoder = session(folder / "decoder.onnx", threads)
            self.joiner = session(folder / "joiner.onnx", threads)
        else:
            self.decoder = self.joiner = None

    def transcribe(self, audio: Sequence[np.ndarray], streaming: bool = True) -> list[Transcript]:
        return [stream_one(self.stream(), x) for x in audio]

    def stream(self) -> Stream:
        return Stream(self, self.units, self.beam)

    def initial_state(self, streams: int) -> State:
        return {name: torch.zeros(streams, *shape) for name, shape in self.shapes.items()}

    def step(
        self, features: Float[Tensor, "N T F"], state: State
    ) -> tuple[Float[Tensor, "N S J"], State]:
        feeds = {"features": features.numpy(), **{k: v.numpy() for k, v in state.items()}}
        encoded, *new = (torch.from_numpy(x) for x in self.encoder.run(None, feeds))
        return encoded, dict(zip(state, new, strict=True))

    def search(self, streams: int, beam: int) -> Search:
        if self.decoder is None:
            return CtcSearch(streams, beam)
        return BeamSearch(self, streams, beam) if beam > 1 else GreedySearch(self, streams)

    def predict(self, context: Int[Tensor, "N 2"]) -> Float[Tensor, "N J"]:
        return torch.from_numpy(self.decoder.run(None, {"y": context.numpy()})[0])

    def join(
        self, encoded: Float[Tensor, "N J"], predicted: Float[Tensor, "N J"]
    ) -> Float[Tensor, "N V"]:
        feeds = {"encoder_out": encoded.numpy(), "decoder_out": predicted.numpy()}
        return torch.from_numpy(self.joiner.run(None, feeds)[0])


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
    if about.get("format") != FORMAT:
        raise UserError(f"{folder}: not exported by this version of Pocketscribe")
    return about


def is_sherpa(folder: Path) -> bool:
    """Whether a folder was exported for sherpa-onnx."""
    encoder = session(folder / "encoder.onnx", 1)
    return "model_type" in encoder.get_modelmeta().custom_metadata_map


def device_files(folder: Path) -> list[Path]:
    """All that a device must hold: the networks and the tokens, not a card beside them."""
    return sorted(p for p in folder.iterdir() if p.suffix == ".onnx" or p.name == "tokens.txt")


def folder_bytes(folder: Path) -> int:
    """Bytes of all that a device must hold."""
    return sum(p.stat().st_size for p in device_files(folder))
