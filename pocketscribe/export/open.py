"""MODEL on the command line: a run folder, a checkpoint, or an exported file or folder."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pocketscribe.config import Config, FileName
from pocketscribe.decoding.searcher import GREEDY, DecodingConfig
from pocketscribe.device import choose_device
from pocketscribe.errors import UserError, needs_engine, needs_extra
from pocketscribe.evaluation.runtime import Runtime
from pocketscribe.export.quiet import quietly
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.files import read_json
from pocketscribe.models.chunks import Chunk


def open_model(
    path: Path,
    search: DecodingConfig = GREEDY,
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


def exported_graphs(path: Path) -> Literal["pte", "onnx"] | None:
    """What the graphs of an exported folder are; None where it is none."""
    kinds: tuple[Literal["pte", "onnx"], ...] = ("pte", "onnx")
    return next((kind for kind in kinds if (path / f"encoder.{kind}").is_file()), None)


def _exported(path: Path, search: DecodingConfig) -> Any:
    """The runtime of an exported folder; None where it is none."""
    if (graphs := exported_graphs(path)) is None:
        return None
    if graphs == "pte":
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
