"""Running an `export --to executorch` folder in ExecuTorch's own runtime."""

from pathlib import Path
from typing import Any

from executorch.runtime import Method, Runtime, Verification
from torch import Tensor

from pocketscribe.decoding.searcher import GREEDY, SearchConfig
from pocketscribe.errors import UserError
from pocketscribe.export.graph_runtime import GRAPHS, GraphRuntime, checked
from pocketscribe.files import read_json

FORMAT = "pocketscribe-executorch-1"


class ExecutorchRuntime(GraphRuntime):
    """One stream at a time: a program's shapes are fixed. The beam must be 1."""

    def __init__(self, folder: Path, search: SearchConfig = GREEDY) -> None:
        """Raises UserError where a file is missing or damaged, or the beam is wider than 1."""
        super().__init__(folder, _description(folder), search)
        if search.beam > 1:
            raise UserError(
                f"--beam {search.beam}: {folder} runs one hypothesis at a time; use --beam 1"
            )
        names = GRAPHS if self.scorer else GRAPHS[:1]
        self.methods = {name: _method(folder / f"{name}.pte") for name in names}

    def run(self, graph: str, *inputs: Tensor) -> list[Tensor]:
        # A program's outputs lie in its own memory and change with the next call.
        return [x.clone() for x in self.methods[graph].execute([x.contiguous() for x in inputs])]


def _method(path: Path) -> Method:
    """The one method of a program file; UserError where it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; the exported folder is not complete")
    try:
        program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
        loaded = program.load_method("forward")
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not a readable program ({str(error)[:120]})") from None
    assert loaded is not None
    return loaded


def _description(folder: Path) -> dict[str, Any]:
    """What the export wrote about the model; UserError where it is missing or another version's."""
    path = folder / "model.json"
    try:
        about = read_json(path)
    except UserError:
        raise UserError(f"{path}: missing or damaged; export the model again") from None
    return checked(about, FORMAT, folder)
