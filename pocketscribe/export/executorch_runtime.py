"""Running an `export --to executorch` folder in ExecuTorch's own runtime."""

from collections.abc import Sequence
from pathlib import Path

import torch
from executorch.runtime import Method, Runtime, Verification
from torch import Tensor, int64, zeros

from pocketscribe.decoding.searcher import GREEDY, DecodingConfig
from pocketscribe.errors import UserError
from pocketscribe.export.graph_runtime import Exported, GraphRuntime, checked
from pocketscribe.export.seal import check_seal
from pocketscribe.files import read_json
from pocketscribe.models import MELS
from pocketscribe.models.predictor import CONTEXT

FORMAT = "pocketscribe-executorch-2"


class ExecutorchRuntime(GraphRuntime):
    """One stream at a time: a program's shapes are fixed."""

    rows = 1

    def __init__(self, folder: Path, search: DecodingConfig = GREEDY) -> None:
        """Raises UserError where a file is missing or damaged."""
        check_seal(folder, "model.json")
        about = checked(read_json(folder / "model.json"), FORMAT, folder)
        super().__init__(folder, about, search)
        self.folder = folder
        self.methods = {name: _method(folder / f"{name}.pte") for name in about.graphs}
        self._check(about)

    def run(self, graph: str, *inputs: Tensor) -> list[Tensor]:
        """Row by row: a beam's hypotheses, one after the other."""
        rows = [self._run(graph, *row) for row in zip(*(x.split(1) for x in inputs), strict=True)]
        return [torch.cat(outputs) for outputs in zip(*rows, strict=True)]

    def _run(self, graph: str, *inputs: Tensor) -> list[Tensor]:
        try:
            found = self.methods[graph].execute([x.contiguous() for x in inputs])
        except RuntimeError as error:
            raise UserError(f"{self.folder / graph}.pte: does not run ({error})") from None
        # A program's outputs lie in its own memory and change with the next call.
        return [x.clone() for x in found]

    def _check(self, about: Exported) -> None:
        """Tries each program once; UserError where it does not fit the description."""
        state = list(self.initial_state(1).values())
        frames = self._tried("encoder", zeros(1, about.frames, MELS), *state)
        width = len(self.units) if self.scorer is None else frames[0].shape[-1]
        shapes = [(1, self.chunk, width), *(x.shape for x in state)]
        self._compare("encoder", frames, shapes)
        if self.scorer is not None:
            half = self._tried("decoder", zeros(1, CONTEXT, dtype=int64))
            self._compare("decoder", half, [(1, width)])
            self._compare("joiner", self._tried("joiner", *half, *half), [(1, len(self.units))])

    def _tried(self, graph: str, *inputs: Tensor) -> list[Tensor]:
        meta = self.methods[graph].metadata
        wanted = [tuple(meta.input_tensor_meta(i).sizes()) for i in range(meta.num_inputs())]
        if wanted != [tuple(x.shape) for x in inputs]:
            raise UserError(
                f"{self.folder / graph}.pte: it takes other inputs than its description says; "
                "export it again"
            )
        return self.run(graph, *inputs)

    def _compare(self, graph: str, found: list[Tensor], wanted: Sequence[Sequence[int]]) -> None:
        shapes = [tuple(x.shape) for x in found]
        if shapes != [tuple(shape) for shape in wanted]:
            raise UserError(
                f"{self.folder / graph}.pte: its output comes out as {shapes}; export it again"
            )


def _method(path: Path) -> Method:
    """The one method of a program file; UserError where it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; the exported folder is not complete")
    try:
        program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
        loaded = program.load_method("forward")
    except (RuntimeError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not a readable program ({str(error)[:120]})") from None
    assert loaded is not None
    return loaded
