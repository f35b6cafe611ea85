"""Running an `export --to executorch` folder in ExecuTorch's own runtime."""

from pathlib import Path
from typing import Any

import torch
from executorch.runtime import Method, Runtime, Verification
from torch import Tensor

from pocketscribe.decoding.searcher import GREEDY, SearchConfig
from pocketscribe.errors import UserError
from pocketscribe.export.graph_runtime import GRAPHS, GraphRuntime, checked
from pocketscribe.files import read_json

FORMAT = "pocketscribe-executorch-1"


class ExecutorchRuntime(GraphRuntime):
    """One stream at a time: a program's shapes are fixed."""

    rows = 1

    def __init__(self, folder: Path, search: SearchConfig = GREEDY) -> None:
        """Raises UserError where a file is missing or damaged."""
        super().__init__(folder, _description(folder), search)
        names = GRAPHS if self.scorer else GRAPHS[:1]
        self.methods = {name: _method(folder / f"{name}.pte") for name in names}

    def run(self, graph: str, *inputs: Tensor) -> list[Tensor]:
        """Row by row: a beam's hypotheses, one after the other."""
        rows = [self._run(graph, *row) for row in zip(*(x.split(1) for x in inputs), strict=True)]
        return [torch.cat(outputs) for outputs in zip(*rows, strict=True)]

    def _run(self, graph: str, *inputs: Tensor) -> list[Tensor]:
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
