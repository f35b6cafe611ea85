"""ExecuTorch programs for XNNPACK: a folder of three .pte files and a description.

Weights in 4 bits become int4 in groups of 32 along fan-in with int8 activations, the one few-bit
form that XNNPACK's kernels take (deployment.md). That is another grid than ours, so a weight is
rounded again: measure the exported folder, not the file it came from. All else stays float32.
"""

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
    XnnpackDynamicallyQuantizedPartitioner,
    XnnpackPartitioner,
)
from executorch.exir import to_edge_transform_and_lower
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
from torchao.quantization.granularity import PerGroup

from pocketscribe.errors import UserError
from pocketscribe.export.graph import JoinerGraph, PredictorGraph, StreamingGraph, describe
from pocketscribe.files import replacing, write_json
from pocketscribe.models import Chunking, Recogniser, decoded
from pocketscribe.models.saved import Saved
from pocketscribe.weights import Linear, Weight
from pocketscribe.weights.weight import Transposed

FORMAT = "pocketscribe-executorch-1"
GROUP = 32


def export_executorch(saved: Saved, chunking: Chunking, out: Path) -> None:
    """Writes a model's folder for one stream at a time.

    Raises:
        UserError: the model cannot stream.
    """
    if chunking.size is None:
        raise UserError("export: this model was trained for full context alone and cannot stream")
    few = {key for key, w in saved.model.weights.stored.items() if w.format.bits == 4}
    plain = decoded(saved.model)
    model = Recogniser(plain.config, plain.vocabulary).eval()
    model.load_state_dict(plain.state_dict())
    _replace_linears(model, few, {})
    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int4, weight_granularity=PerGroup(GROUP)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_(model, config, filter_fn=lambda module, name: isinstance(module, _FewBits))
        graph = StreamingGraph(model, chunking)
        context, half = torch.tensor([[-1, 0]]), torch.zeros(1, model.config.joiner)
        graphs: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
            "encoder": (graph, graph.example(1))
        }
        if model.config.head == "transducer":
            graphs["decoder"] = (PredictorGraph(model), (context,))
            graphs["joiner"] = (JoinerGraph(model), (half, half.clone()))
        programs = {name: _lowered(module, example) for name, (module, example) in graphs.items()}
    with replacing(out) as folder:
        folder.mkdir()
        for name, program in programs.items():
            (folder / f"{name}.pte").write_bytes(program)
        write_json(folder / "model.json", {"format": FORMAT, **describe(saved, graph)})


class _FewBits(nn.Linear):
    """A product without bias whose fan-in is filled up to whole groups; quantised in place."""

    def __init__(self, matrix: Float[Tensor, "O I"]) -> None:
        out, fan_in = matrix.shape
        self.filled = -fan_in % GROUP
        super().__init__(fan_in + self.filled, out, bias=False)
        with torch.no_grad():
            self.weight.copy_(F.pad(matrix, (0, self.filled)))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, self.filled)) if self.filled else x)


class _Product(nn.Module):
    """A whole layer: one or two products, its own scale and bias."""

    def __init__(self, layer: Linear, products: Sequence[nn.Module]) -> None:
        super().__init__()
        self.products = nn.ModuleList(products)
        self.scale, self.bias = layer.scale, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        for product in self.products:
            x = product(x)
        x = x if self.scale is None else x * self.scale
        return x if self.bias is None else x + self.bias


def _replace_linears(
    module: nn.Module, few: set[str], made: dict[tuple[int, bool], _FewBits]
) -> None:
    """Layers of few bits as torch's own linear ones, which is what torchao quantises."""
    for name, child in module.named_children():
        if not isinstance(child, Linear):
            _replace_linears(child, few, made)
            continue
        weights = [w for w in (child.factor, child.weight) if w is not None]
        if not all(_stored(weight).key in few for weight in weights):
            continue
        products = []
        for weight in weights:
            key = id(_stored(weight)), isinstance(weight, Transposed)
            if key not in made:  # a shared tensor is one module, and once in the file
                made[key] = _FewBits(weight().detach())
            products.append(made[key])
        setattr(module, name, _Product(child, products))


def _stored(weight: Weight | Transposed) -> Weight:
    return weight.weight if isinstance(weight, Transposed) else weight


def _lowered(module: nn.Module, example: tuple[Tensor, ...]) -> bytes:
    logging.disable(logging.WARNING)
    try:
        with torch.no_grad():
            program = torch.export.export(module.eval(), example)
        partitioners = [XnnpackDynamicallyQuantizedPartitioner(), XnnpackPartitioner()]
        edge = to_edge_transform_and_lower(program, partitioner=partitioners)
        return bytes(edge.to_executorch().buffer)
    finally:
        logging.disable(logging.NOTSET)


def description(folder: Path) -> dict:
    """What the export wrote about the model.

    Raises:
        UserError: it is missing, or of another version.
    """
    path = folder / "model.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); export the model again") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{folder}: not exported by this version of Pocketscribe")
    return about
