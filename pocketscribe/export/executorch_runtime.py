"""Running an `export --to executorch` folder in ExecuTorch's own runtime."""

from pathlib import Path

from executorch.runtime import Method, Runtime, Verification
from torch import Tensor

from pocketscribe.decoding.searcher import GREEDY, SearchConfig
from pocketscribe.errors import UserError
from pocketscribe.export.graph_runtime import GraphRuntime, checked
from pocketscribe.export.seal import check_seal
from pocketscribe.files import read_json

FORMAT = "pocketscribe-executorch-2"


class ExecutorchRuntime(GraphRuntime):
    """One stream at a time: a program's shapes are fixed. The beam must be 1."""

    def __init__(self, folder: Path, search: SearchConfig = GREEDY) -> None:
        """Raises UserError where a file is missing or damaged, or the beam is wider than 1."""
        check_seal(folder, "model.json")
        about = checked(read_json(folder / "model.json"), FORMAT, folder)
        super().__init__(folder, about, search)
        if search.beam > 1:
            raise UserError(
                f"--beam {search.beam}: {folder} runs one hypothesis at a time; use --beam 1"
            )
        self.methods = {name: _method(folder / f"{name}.pte") for name in about.graphs}

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
