"""ExecuTorch programs for XNNPACK: a folder of three .pte files and a description.

XNNPACK multiplies by symmetric int4 in groups of 32 along fan-in, or int8 a channel, with int8
activations. A weight of 8, 4 or 2 bits on such a grid keeps its very integers: a
channel's scale is repeated for each group, 2 bits lie in 4. All other weights stay float32.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
    XnnpackDynamicallyQuantizedPartitioner,
    XnnpackPartitioner,
)
from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
from torch import Tensor, nn
from torch.nn import functional as F
from torchao.quantization import IntxUnpackedToInt8Tensor

from pocketscribe.export.executorch_runtime import FORMAT
from pocketscribe.export.graph import JoinerGraph, PredictorGraph, StreamingGraph, describe
from pocketscribe.export.seal import BLANK_SEAL, seal
from pocketscribe.files import replacing, write_json
from pocketscribe.models import Chunking, decoded
from pocketscribe.models.saved import Saved
from pocketscribe.weights import Format, Linear, Weight

GROUP = 32


def export_executorch(saved: Saved, chunking: Chunking, out: Path) -> None:
    """Writes a model's folder for one stream at a time."""
    model = decoded(saved.model)
    products = {
        key: _Product(weight)
        for key, weight in saved.model.weights.stored.items()
        if _possible(weight.format)
    }
    _replace_linears(model, products)
    graph = StreamingGraph(model, chunking)
    graphs: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {"encoder": (graph, graph.example(1))}
    if model.config.head == "transducer":
        context, half = torch.tensor([[-1, 0]]), torch.zeros(1, model.config.joiner)
        graphs["decoder"] = (PredictorGraph(model), (context,))
        graphs["joiner"] = (JoinerGraph(model), (half, half.clone()))
    with replacing(out, folder=True) as folder:
        for name, (module, example) in graphs.items():
            (folder / f"{name}.pte").write_bytes(_lowered(module, example))
        about = {"format": FORMAT, "seal": BLANK_SEAL, **describe(saved, graph)}
        write_json(folder / "model.json", about)
        seal(folder, "model.json")


def _possible(format: Format) -> bool:
    """Whether XNNPACK's kernels have this grid."""
    if format.bits is None or not format.symmetric:
        return False
    if format.bits == 8:
        return format.block is None
    return format.block is None or format.block % GROUP == 0


class _Product(nn.Module):
    """`x W^T` by the integers of a stored weight, fan-in filled up to whole groups."""

    weight: Tensor

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        found = weight.integers()
        wide = weight.format.bits == 8
        self.filled = 0 if wide else -weight.shape[1] % GROUP
        codes = F.pad(found.codes.to(torch.int8), (0, self.filled))
        block = codes.shape[1] if wide else GROUP
        blocks = codes.shape[1] // block
        each = (weight.format.block or codes.shape[1]) // block  # groups that share a scale
        scale = found.scale.float().repeat_interleave(each, dim=1)[:, :blocks].contiguous()
        self.weight = nn.Parameter(
            IntxUnpackedToInt8Tensor(
                codes,
                scale,
                torch.zeros_like(scale, dtype=torch.int8),
                torch.int8 if wide else torch.int4,  # type: ignore[attr-defined]
                (1, block),
                torch.float32,
                "int8_asym_per_token",
            ),
            requires_grad=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.pad(x, (0, self.filled)) if self.filled else x, self.weight)


class _FewBits(nn.Module):
    """A linear layer of one or two products, with its own scale and bias."""

    def __init__(self, layer: Linear, products: Sequence[_Product]) -> None:
        super().__init__()
        self.products = nn.ModuleList(products)
        self.scale, self.bias = layer.scale, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        for product in self.products:
            x = product(x)
        x = x if self.scale is None else x * self.scale
        return x if self.bias is None else x + self.bias


def _replace_linears(module: nn.Module, products: dict[str, _Product]) -> None:
    """A stored weight is one product, whatever layers use it, and once in the file."""
    for name, child in module.named_children():
        if not isinstance(child, Linear):
            _replace_linears(child, products)
            continue
        weights = [w for w in (child.factor, child.weight) if w is not None]
        # A transposed weight has its scales along the other axis.
        keys = [w.key if isinstance(w, Weight) else "" for w in weights]
        if all(key in products for key in keys):
            setattr(module, name, _FewBits(child, [products[key] for key in keys]))


def _lowered(module: nn.Module, example: tuple[Tensor, ...]) -> bytes:
    with torch.no_grad():
        program = torch.export.export(module.eval(), example)
    partitioners = [XnnpackDynamicallyQuantizedPartitioner(), XnnpackPartitioner()]
    # A third of the minutes went into checking the graph again after each of hundreds of passes.
    config = EdgeCompileConfig(_check_ir_validity=False)
    edge = to_edge_transform_and_lower(program, partitioner=partitioners, compile_config=config)
    return bytes(edge.to_executorch().buffer)
