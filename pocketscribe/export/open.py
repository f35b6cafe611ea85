"""MODEL on the command line: a run folder, a checkpoint, or an exported file or folder."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from pocketscribe.config import Config, FileName
from pocketscribe.decoding.offline import decode
from pocketscribe.decoding.searcher import GREEDY, SearchConfig, Searcher
from pocketscribe.decoding.streaming import (
    Stream,
    TorchStreaming,
    Transcript,
    stream_one,
    transcript,
    whole_features,
)
from pocketscribe.errors import UserError, needs_extra
from pocketscribe.evaluation.runtime import Runtime
from pocketscribe.files import read_json
from pocketscribe.models import Chunking, Recogniser, stored_parameters, virtual_parameters
from pocketscribe.models.saved import load_model
from pocketscribe.speech.features import SAMPLE_RATE
from pocketscribe.speech.units import Units

Chunk = int | Literal["full"] | None  # encoder frames of 40 ms; None: the model's first choice
LONG_SECONDS = 60  # beyond which whole utterances go chunk by chunk, to the same result
FULL_SECONDS = 120  # all that full context takes: its memory grows with the square


class TorchRuntime:
    """A saved model in PyTorch: offline under a chunking, or streaming."""

    always_streams = False

    def __init__(
        self,
        path: Path,
        search: SearchConfig = GREEDY,
        chunk: Chunk = None,
        device: str = "cpu",
    ) -> None:
        """`chunk` is the latency; `device` is cpu, cuda or auto."""
        saved = load_model(path)
        self.model, self.card = saved.model, saved.card
        self.model.to(choose_device(device))
        self.units = Units.from_json(saved.units, str(path), saved.model.vocabulary)
        self.searcher = Searcher.open(search, self.units)
        self.chunking = choose_chunking(self.model, chunk)
        self.chunk = self.chunking.size
        self.bytes = path.stat().st_size
        self.parameters_stored = stored_parameters(self.model)
        self.parameters_virtual = virtual_parameters(self.model)

    def transcribe(self, audio: Sequence[np.ndarray], streaming: bool) -> list[Transcript]:
        if streaming:
            return [stream_one(self.stream(), x) for x in audio]
        limit = SAMPLE_RATE * (FULL_SECONDS if self.chunk is None else LONG_SECONDS)
        features = [whole_features(x, self.chunking) for x in audio if len(x) <= limit]
        found = iter(decode(self.model, features, self.chunking, self.searcher))
        return [
            transcript(next(found), self.units) if len(x) <= limit else stream_one(self.stream(), x)
            for x in audio
        ]

    def stream(self) -> Stream:
        """Raises UserError under full context."""
        if self.chunk is None:
            raise UserError(
                f"full context can neither stream nor hear more than {FULL_SECONDS} s at once; "
                "choose a --chunk that the model was trained for, "
                "or train with a number in model.chunks.sizes"
            )
        return Stream(TorchStreaming(self.model, self.chunking), self.units, self.searcher)


def choose_device(name: str) -> torch.device:
    """Raises UserError where there is no such device here."""
    if name not in ("cpu", "cuda", "auto"):
        raise UserError(f"--device {name}: choose cpu, cuda or auto")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("--device cuda: PyTorch sees no GPU here; use cpu or auto")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def choose_chunking(model: Recogniser, chunk: Chunk) -> Chunking:
    """The trained chunking of `chunk` encoder frames, or the model's first one that streams.

    Raises:
        UserError: the model was not trained for that chunk size.
    """
    chunks = model.config.chunks
    if chunk is None:
        return chunks.streaming
    for chunking in chunks.chunkings:
        if chunking.size == (None if chunk == "full" else chunk):
            return chunking
    sizes = ", ".join(str(size) for size in chunks.sizes)
    raise UserError(f"--chunk {chunk}: this model was trained for chunks of {sizes} (x 40 ms)")


def open_model(
    path: Path,
    search: SearchConfig = GREEDY,
    chunk: Chunk = None,
    device: str = "cpu",
    engine: bool | None = False,
) -> Runtime:
    """Opens whatever `path` is: a run's folder, a stage's, a saved file, or an exported folder.

    `engine` asks for the native engine or, if None, takes it where it is installed and can do what
    is wanted; PyTorch runs saved files else.

    Raises:
        UserError: it is none of these, or it is damaged, or an exported model has another chunk.
    """
    choose_device(device)
    if (runtime := _exported(path, search)) is None:
        if engine and device == "cuda":
            raise UserError("--runtime engine runs on the CPU: leave out --device cuda")
        file = model_file(path)
        if engine or (engine is None and _engine_might(file, chunk, device)):
            try:
                with needs_engine():
                    from pocketscribe.export.engine_runtime import EngineRuntime
                return EngineRuntime(file, search, chunk)
            except UserError:
                if engine:
                    raise  # else PyTorch says what ails it, or can run it
        return TorchRuntime(file, search, chunk, device)
    if engine:
        raise UserError(f"--runtime engine: {path} is an exported folder with a runtime of its own")
    if device == "cuda":
        raise UserError(f"--device cuda: {path} is an exported folder, which runs on the CPU")
    if chunk not in (None, runtime.chunk):
        raise UserError(f"--chunk {chunk}: {path} was exported for chunks of {runtime.chunk}")
    return runtime


def _engine_might(file: Path, chunk: Chunk, device: str) -> bool:
    """Whether the engine is installed, and does what is wanted with files of that kind."""
    wanted = file.suffix == ".pocket" and device == "cpu" and chunk != "full"
    return wanted and find_spec("pocketscribe_engine") is not None


@contextmanager
def needs_engine(
    asked: str = "--runtime engine", instead: str = "choose --runtime torch"
) -> Iterator[None]:
    """Around what imports the engine's package, which was asked for by `asked`."""
    try:
        yield
    except (ImportError, OSError) as error:  # not there; its library does not load
        raise UserError(
            f"{asked}: pocketscribe-engine cannot be used ({error}); pip install ./engine "
            f"from the repository, or {instead}"
        ) from None


def is_exported(path: Path) -> bool:
    """Whether it is a folder for another runtime than PyTorch."""
    return any((path / f"encoder.{kind}").is_file() for kind in ("onnx", "pte"))


def _exported(path: Path, search: SearchConfig) -> Any:
    """The runtime of an exported folder; None where it is none."""
    if not is_exported(path):
        return None
    if (path / "encoder.pte").is_file():
        with needs_extra("executorch", str(path)), quietly():
            from pocketscribe.export.executorch_runtime import ExecutorchRuntime
        return ExecutorchRuntime(path, search)
    with needs_extra("export", str(path)):
        from pocketscribe.export.onnx_runtime import OnnxRuntime, is_sherpa
        from pocketscribe.export.sherpa_runtime import SherpaRuntime
    return (SherpaRuntime if is_sherpa(path) else OnnxRuntime)(path, search)


class MadeStage(Config, extra="ignore"):
    name: FileName


class Made(Config, extra="ignore"):
    """What a run's recipe.json says about its files; `recipes` knows the rest."""

    name: FileName
    stage: tuple[MadeStage, ...] = Field(min_length=1)


def model_file(path: Path) -> Path:
    """The saved model behind a run's folder, a stage's, a checkpoint's, or a file.

    A run's is the file that it ships, which was scored; before that, its last stage's.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such model; give a run, a checkpoint or an exported folder")
    if (path / "model.safetensors").is_file():
        return path / "model.safetensors"
    if (recipe := path / "recipe.json").is_file():
        made = Made.read(read_json(recipe), f"{recipe}: not the recipe of a run")
        name, stage = made.name, made.stage[-1].name
        for shipped in (path / f"{name}.pocket", path / f"{name}.safetensors"):
            if shipped.is_file():
                return shipped
        if (found := path / stage / "model.safetensors").is_file():
            return found
        raise UserError(f"{path}: the run has not finished its stage {stage!r}; run it again")
    raise UserError(
        f"{path}: no model in it; give a run, a checkpoint or a model's file (what was exported "
        "for a runtime holds graphs alone)"
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Without the hundreds of lines that torchao and ExecuTorch say on what they load and fuse."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
